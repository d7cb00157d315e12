import type { Change } from '../../domain/diff/change.ts'
import { diffStages } from '../../domain/diff/stage-diff.ts'
import { bareSide } from '../../domain/stage/origin.ts'
import { type Ranking, rankSweep } from '../../domain/sweep/ranking.ts'
import type { Values } from '../../domain/sweep/space.ts'
import { isOver, type SweepState } from '../../domain/sweep/state.ts'
import { trialStage } from '../../domain/sweep/trial-stage.ts'
import { findRun } from '../../store/runs.ts'
import { type Limits, limitsOf, readSweepState, type Sweep } from '../../store/sweeps.ts'
import type { RunsWorld } from '../world.ts'
import { isSweepDriven } from './begin.ts'
import { costOf } from './cost.ts'
import { spentBy, suggesterOf } from './driver.ts'
import type { Importance } from './suggester.ts'

/** How a sweep stands and what it found. */
export interface SweepReport {
  readonly id: string
  readonly name: string
  readonly stage: string
  readonly folder: string
  /** In one word: new, running, left, or why it ended. */
  readonly status: string
  readonly message: string
  readonly counts: Readonly<Record<string, number>>
  readonly budget: Limits['budget']
  readonly spent: { readonly trials: number; readonly steps: number; readonly hours: number }
  readonly ranking: Ranking
  /** Per point, how its stage differs from the best one's. */
  readonly diffs: ReadonlyMap<number, readonly Change[]>
  readonly importance: Importance
  /** What was not trained again. */
  readonly saved: Saved
}

export interface Saved {
  /** Stages before the swept one that trials took instead of training them. */
  readonly prefixes: number
  /** Trials whose run had been trained before, and those that branched. */
  readonly runs: number
  readonly steps: number
  readonly hours: number
}

/** Reads a sweep's report. Importance is asked of Python only with `importance`. */
export async function reportSweep(sweep: Sweep, options: { importance: boolean }, world: RunsWorld): Promise<SweepReport> {
  const state = readSweepState(sweep)
  const ranking = rankSweep(state)
  const { identity } = sweep
  const spent = spentBy(state)
  const enough = state.points.filter(({ told }) => told?.state === 'done').length >= 4
  return {
    id: sweep.id,
    name: identity.sweep.name,
    stage: identity.sweep.stage,
    folder: sweep.folder,
    ...standing(sweep, state),
    counts: countsOf(state),
    budget: limitsOf(sweep).budget,
    spent: { trials: state.trials.length, ...spent },
    ranking,
    diffs: diffsOf(sweep, ranking),
    importance: options.importance && enough ? await suggesterOf(sweep, world).importance() : { method: null, importance: {} },
    saved: savedBy(state, world),
  }
}

function standing(sweep: Sweep, { end, drives }: SweepState): { status: string; message: string } {
  if (isSweepDriven(sweep)) return { status: 'running', message: '' }
  if (end) return { status: end.reason, message: end.message }
  return drives === 0 ? { status: 'new', message: '' } : { status: 'left', message: 'its driver is gone; the same command goes on' }
}

function countsOf({ trials, points }: SweepState): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const { status } of trials) counts[status] = (counts[status] ?? 0) + 1
  const infeasible = points.filter((point) => point.infeasible !== null).length
  return infeasible === 0 ? counts : { ...counts, infeasible }
}

function diffsOf({ identity }: Sweep, { points, best }: Ranking): ReadonlyMap<number, readonly Change[]> {
  const base = identity.stages.at(-1)
  const stageOf = (values: Values) => {
    const made = base && trialStage(base, identity.sweep, values, null)
    return made && 'stage' in made ? made.stage : undefined
  }
  const bestStage = best && stageOf(best.values)
  if (!bestStage) return new Map()
  return new Map(
    points.map(({ point, values }) => {
      const stage = stageOf(values)
      return [point, stage ? diffStages(bareSide('best', bestStage), bareSide(`point ${point}`, stage)).changes : []]
    }),
  )
}

function savedBy({ trials }: SweepState, { runsFolder }: RunsWorld): Saved {
  const ended = trials.filter((trial) => isOver(trial))
  const prefixes = ended.flatMap(({ prefix }) => prefix.filter(({ reused }) => reused))
  const known = new Map<string, { deviceSeconds: number; steps: number }>()
  const cost = (run: string) => {
    const found = known.get(run) ?? costOf(findRun(runsFolder, run))
    known.set(run, found)
    return found
  }
  const costs = prefixes.map(({ run }) => cost(run))
  const reused = ended.filter(({ steps, prefix, status }) => status === 'done' && steps === 0 && prefix.every(({ reused }) => reused))
  costs.push(...reused.flatMap(({ run }) => (run === undefined ? [] : [cost(run)])))
  const branched = ended.flatMap(({ branchedFrom }) => (branchedFrom ? [branchedFrom.step] : []))
  return {
    prefixes: prefixes.length,
    runs: reused.length + branched.length,
    steps: costs.reduce((sum, { steps }) => sum + steps, 0) + branched.reduce((sum, steps) => sum + steps, 0),
    hours: costs.reduce((sum, { deviceSeconds }) => sum + deviceSeconds, 0) / 3600,
  }
}
