import { findSweep, readSweepState } from '../../store/sweeps.ts'
import { reportSweep } from '../sweep/report.ts'
import type { RunsWorld } from '../world.ts'
import { numberOrNull } from './summary.ts'

/** One trial of a sweep, as a page shows it. */
export interface TrialLine {
  readonly number: number
  readonly values: Readonly<Record<string, unknown>>
  readonly seed: number | null
  readonly status: string
  readonly run: string | null
  readonly step: number | null
  /** Held-out loss it is compared by, or the last one reported. */
  readonly value: number | null
  readonly standardError: number | null
  /** Why it was given up, or how it failed. */
  readonly reason: string
}

/** A sweep with its trials, the axes they differ in, and, where it was asked for, what matters most. */
export interface SweepView {
  readonly id: string
  readonly name: string
  readonly stage: string
  readonly axes: readonly { readonly path: string; readonly isLog: boolean }[]
  readonly end: string | null
  readonly trials: readonly TrialLine[]
  /** Share of the differences in loss that each setting explains; null where it was not asked for or there are too few trials. */
  readonly importance: Readonly<Record<string, number>> | null
}

/** A sweep by its id. Importance is computed in Python and takes seconds. Raises UserErrors SWEEP_…. */
export async function sweepViewOf(address: string, options: { importance: boolean }, world: RunsWorld): Promise<SweepView> {
  const sweep = findSweep(world.runsFolder, address)
  const { identity } = sweep
  const state = readSweepState(sweep)
  const told = options.importance ? (await reportSweep(sweep, { importance: true }, world)).importance : undefined
  return {
    id: sweep.id,
    name: identity.sweep.name,
    stage: identity.sweep.stage,
    axes: identity.axes.map((axis) => ({ path: axis.path, isLog: axis.kind !== 'choice' && axis.log })),
    end: state.end ? `${state.end.reason}: ${state.end.message}` : null,
    trials: state.trials.map((trial) => {
      const last = trial.reports.at(-1)
      return {
        number: trial.number,
        values: trial.values,
        seed: trial.seed,
        status: trial.status,
        run: trial.run ?? null,
        step: trial.step ?? last?.step ?? null,
        value: numberOrNull(trial.value ?? last?.value),
        standardError: numberOrNull(trial.standardError ?? last?.standardError ?? undefined),
        reason: trial.status === 'pruned' ? (last?.reason ?? trial.message) : trial.message,
      }
    }),
    importance: told && told.method !== null ? told.importance : null,
  }
}
