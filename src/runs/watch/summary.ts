import type { EndReason, RunIdentity } from '../../domain/protocol.ts'
import { endOf, fullDiskText, newestAttempt, type RunState } from '../../domain/run/state.ts'
import type { Run } from '../../store/runs.ts'
import type { TrainerRecord } from '../../store/trainer-record.ts'

/**
 * Where a run stands, derived and never stored. `new` has not been started, `starting` has not trained a step, `waiting` trains on
 * when there is room on its disk, `gone` has no process any more and nobody has recorded its end yet.
 */
export type Standing = 'new' | 'starting' | 'training' | 'waiting' | 'gone' | EndReason

/** One line of a list of runs. Times are seconds since 1970. */
export interface RunSummary {
  readonly id: string
  readonly stage: string
  readonly kind: string
  readonly verb: RunIdentity['verb']
  readonly createdAt: string
  readonly recipe: RunIdentity['recipe']
  readonly parent: { readonly run: string; readonly step: number; readonly use: string } | null
  readonly standing: Standing
  readonly step: number
  readonly steps: number
  readonly loss: number | null
  /** Of what would be handed on: the averaged weights where there are some. */
  readonly heldOutLoss: number | null
  readonly learningRate: number | null
  /** Of the last step. */
  readonly secondsPerStep: number | null
  readonly startedAt: number | null
  readonly lastHeardAt: number | null
  readonly incidents: number
  readonly checkpoints: number
  readonly samples: number
  readonly message: string | null
}

/** The summary of a run from its state. */
export function summaryOf(run: Run, state: RunState, record: TrainerRecord, isGone: boolean): RunSummary {
  const { identity, stage } = run
  const last = (name: string) => numberOrNull(record.columns.column(name)?.[record.columns.kept.at(-1) ?? -1])
  const measured = state.heldOut.at(-1)
  const fullDisk = newestAttempt(state)?.fullDisk
  return {
    id: run.id,
    stage: stage.name,
    kind: stage.kind,
    verb: identity.verb,
    createdAt: identity.createdAt,
    recipe: identity.recipe,
    parent: identity.parent && { run: identity.parent.run, step: identity.parent.step, use: identity.parent.use },
    standing: standingOf(state, isGone),
    step: state.step,
    steps: state.steps ?? stage.steps,
    loss: last('loss'),
    heldOutLoss: numberOrNull(measured && (measured.ema ?? measured.raw).loss),
    learningRate: last('learningRate'),
    secondsPerStep: last('secondsPerStep'),
    startedAt: state.attempts[0]?.startedAt || null,
    lastHeardAt: state.lastHeardAt ?? null,
    incidents: state.incidents.length,
    checkpoints: state.checkpoints.length,
    samples: state.samples.length,
    message: endOf(state)?.message ?? (fullDisk ? fullDiskText(fullDisk) : null),
  }
}

function standingOf(state: RunState, isGone: boolean): Standing {
  const attempt = newestAttempt(state)
  if (!attempt) return 'new'
  if (attempt.end) return attempt.end.reason
  if (isGone) return 'gone'
  if (attempt.fullDisk) return 'waiting'
  return state.steps === undefined ? 'starting' : 'training'
}

/** Whether a run that stands so has a process that trains, or will. */
export function isLive(standing: Standing): boolean {
  return ['starting', 'training', 'waiting'].includes(standing)
}

/** JSON has no numbers beyond the finite ones. */
export function numberOrNull(value: number | undefined): number | null {
  return value !== undefined && Number.isFinite(value) ? value : null
}
