import { z } from 'zod'

/**
 * How the series of a benchmark become its one number. `ours` is always there; `reference` where there is something to compare with.
 * A ratio is that of the medians, a paired ratio the median of the rounds' own: for sides that differ by less than rounds do.
 */
const figureKind = z.enum(['ratio', 'paired-ratio', 'difference', 'value'])

/** A number to reach, and from which side. */
const goal = z.strictObject({ at: z.enum(['most', 'least']), value: z.number() })

/** What a group says of a benchmark before it runs. */
export const benchmark = z.strictObject({
  name: z.string().regex(/^[a-z0-9][a-z0-9-]*$/),
  /** What is measured against what, with sizes, in a line. */
  what: z.string().min(1),
  figure: figureKind,
  /** Unit of the figure: `×`, `ms`, `scripts/s`. */
  unit: z.string().min(1),
  goal: goal.nullable(),
})
export type Benchmark = z.infer<typeof benchmark>

/** What a group says after: rounds of every side, taken in turns, or why there are none. */
export const measured = z.union([
  z.strictObject({
    name: z.string(),
    /** One number per round and side; a ratio or difference pairs the rounds. Sides beside `ours` and `reference` are only told. */
    series: z.record(z.string(), z.array(z.number()).min(1)),
    note: z.string().default(''),
  }),
  z.strictObject({ name: z.string(), skipped: z.string().min(1) }),
])
export type Measured = z.input<typeof measured>

export interface Figure {
  readonly value: number
  /** 95 % interval over resampled rounds. */
  readonly low: number
  readonly high: number
}

export interface Result extends Benchmark {
  readonly group: string
  readonly figureValue: Figure | null
  readonly reached: boolean | null
  readonly medians: Readonly<Record<string, number>>
  readonly rounds: number
  readonly note: string
  readonly skipped: string | null
}

/** The result of a benchmark. A goal is reached by the median; the interval says how sure that is. */
export function resultOf(group: string, listed: Benchmark, raw: Measured): Result {
  const got = measured.parse(raw)
  const empty = { ...listed, group, figureValue: null, reached: null, medians: {}, rounds: 0, note: '' }
  if ('skipped' in got) return { ...empty, skipped: got.skipped }
  const figureValue = figureOf(listed.figure, got.series)
  const medians = Object.fromEntries(Object.entries(got.series).map(([side, rounds]) => [side, median(rounds)]))
  const reached =
    listed.goal && (listed.goal.at === 'most' ? figureValue.value <= listed.goal.value : figureValue.value >= listed.goal.value)
  return { ...empty, figureValue, reached, medians, rounds: got.series.ours?.length ?? 0, note: got.note, skipped: null }
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  const upper = sorted[middle] ?? Number.NaN
  return sorted.length % 2 ? upper : (upper + (sorted[middle - 1] ?? Number.NaN)) / 2
}

const resamples = 2000

/** The number of a benchmark from the medians of its sides, with an interval from rounds drawn again, sides together. */
export function figureOf(kind: Benchmark['figure'], series: Readonly<Record<string, readonly number[]>>): Figure {
  const ours = series.ours
  const reference = kind === 'value' ? ours : series.reference
  if (ours === undefined || reference === undefined || ours.length !== reference.length)
    throw new Error(`a ${kind} needs as many rounds of ours (${ours?.length ?? 0}) as of the reference (${reference?.length ?? 0})`)
  const of = (rounds: readonly number[]): number => {
    const pick = (side: readonly number[]) => median(rounds.map((round) => side[round] ?? Number.NaN))
    if (kind === 'value') return pick(ours)
    if (kind === 'paired-ratio') return median(rounds.map((round) => (ours[round] ?? Number.NaN) / (reference[round] ?? Number.NaN)))
    return kind === 'ratio' ? pick(ours) / pick(reference) : pick(ours) - pick(reference)
  }
  const random = generator(ours.length)
  const drawn = Array.from({ length: resamples }, () => of(ours.map(() => Math.floor(random() * ours.length)))).sort((a, b) => a - b)
  const at = (share: number) => drawn[Math.floor(share * (resamples - 1))] ?? Number.NaN
  return { value: of([...ours.keys()]), low: at(0.025), high: at(0.975) }
}

/** The same draws for the same number of rounds: a printed interval can be computed again. Park and Miller 1988. */
function generator(seed: number): () => number {
  let state = seed + 1
  return () => {
    state = (state * 48_271) % 2_147_483_647
    return state / 2_147_483_647
  }
}
