import type { Values } from './space.ts'
import { isOver, type SweepState, type Trial } from './state.ts'

/** A point with what its trials came to. */
export interface RankedPoint {
  /** From 1; null for a point without a loss at the step that is compared. */
  readonly rank: number | null
  readonly point: number
  readonly values: Values
  readonly trials: readonly Trial[]
  readonly status: 'done' | 'pruned' | 'failed' | 'open'
  /** Mean over seeds, at the step that is compared; the last loss of a point that was given up. */
  readonly value: number | null
  readonly step: number | null
  /** Over seeds where there are several; of one measurement over its clips else. */
  readonly standardError: number | null
  /** Half the width of the 95 % interval over seeds; null for one seed. */
  readonly interval: number | null
  /** How much worse than the best one. */
  readonly behind: number | null
  /** Whether that is less than what chance makes; null where nothing is known of chance. */
  readonly isNoise: boolean | null
  /** Device seconds of one of its runs, whoever paid for them. */
  readonly seconds: number | null
}

export interface Ranking {
  readonly points: readonly RankedPoint[]
  readonly best: RankedPoint | undefined
  /** The cheapest point that is at most this much worse than the best. */
  readonly cheapest: RankedPoint | undefined
}

/** Share by which the cheapest setting may be worse. */
export const closeEnough = 0.01

/** Points by their loss: finished ones first, then those given up by how far they came, then the others. */
export function rankSweep({ points, trials }: SweepState): Ranking {
  const summed = points
    .filter(({ infeasible }) => infeasible === null)
    .map(({ number, values }) =>
      summary(
        number,
        values,
        trials.filter(({ point }) => point === number),
      ),
    )
  const done = summed.filter(({ status }) => status === 'done').sort((a, b) => (a.value ?? 0) - (b.value ?? 0) || a.point - b.point)
  const [first] = done
  const best = first && { ...first, rank: 1, behind: 0, isNoise: false }
  const ranked = done.map((point, place) => ({ ...point, rank: place + 1, ...against(point, first) }))
  const rest = summed
    .filter(({ status }) => status !== 'done')
    .sort(
      (a, b) =>
        (b.step ?? -1) - (a.step ?? -1) ||
        (a.value ?? Number.POSITIVE_INFINITY) - (b.value ?? Number.POSITIVE_INFINITY) ||
        a.point - b.point,
    )
  const limit = best?.value == null ? undefined : best.value + closeEnough * Math.abs(best.value)
  const close = limit === undefined ? [] : ranked.filter(({ value, seconds }) => (value ?? 0) <= limit && seconds !== null)
  const cheapest = close.sort((a, b) => (a.seconds ?? 0) - (b.seconds ?? 0) || (a.rank ?? 0) - (b.rank ?? 0))[0]
  return { points: [...ranked, ...rest], best, cheapest }
}

function summary(point: number, values: Values, trials: readonly Trial[]): RankedPoint {
  const done = trials.filter(({ status, value }) => status === 'done' && value !== null && Number.isFinite(value))
  const isOpen = trials.length === 0 || trials.some((trial) => !isOver(trial))
  const status =
    done.length > 0 && !isOpen ? 'done' : isOpen ? 'open' : trials.some((trial) => trial.status === 'pruned') ? 'pruned' : 'failed'
  const blank = { rank: null, point, values, trials, status, interval: null, behind: null, isNoise: null } as const
  const seconds = meanOf(trials.filter((trial) => trial.status === 'done').map((trial) => trial.runSeconds))
  const [last] = trials
  if (done.length === 0) {
    const report = last?.reports.at(-1)
    return { ...blank, value: report?.value ?? null, step: report?.step ?? null, standardError: report?.standardError ?? null, seconds }
  }
  const losses = done.map(({ value }) => value ?? 0)
  const value = meanOf(losses)
  const step = done[0]?.step ?? null
  if (losses.length === 1) return { ...blank, value, step, standardError: done[0]?.standardError ?? null, seconds }
  const standardError = deviation(losses) / Math.sqrt(losses.length)
  return { ...blank, value, step, standardError, interval: standardError * studentT(losses.length - 1), seconds }
}

/** How far a point is behind the best one, and whether chance alone makes as much in one of twenty comparisons. */
function against(point: RankedPoint, best: RankedPoint | undefined): Pick<RankedPoint, 'behind' | 'isNoise'> {
  if (!best || point.value === null || best.value === null) return { behind: null, isNoise: null }
  const behind = point.value - best.value
  if (point.point === best.point) return { behind, isNoise: false }
  if (point.standardError === null || best.standardError === null) return { behind, isNoise: null }
  const freedom = point.interval === null || best.interval === null ? undefined : seedsOf(point) + seedsOf(best) - 2
  const limit = Math.hypot(point.standardError, best.standardError) * (freedom === undefined ? normal : studentT(freedom))
  return { behind, isNoise: behind <= limit }
}

function seedsOf({ trials }: RankedPoint): number {
  return trials.filter(({ status }) => status === 'done').length
}

function meanOf(values: readonly number[]): number | null {
  return values.length === 0 ? null : values.reduce((sum, value) => sum + value, 0) / values.length
}

function deviation(values: readonly number[]): number {
  const mean = meanOf(values) ?? 0
  return Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (values.length - 1))
}

const normal = 1.96
/** Two-sided 95 % quantiles of Student's t by degrees of freedom from 1. */
const quantiles = [
  12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131, 2.12, 2.11, 2.101, 2.093, 2.086,
]

function studentT(freedom: number): number {
  return quantiles[freedom - 1] ?? normal + 2.4 / freedom
}
