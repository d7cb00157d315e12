import type { StepPoint } from './state.ts'

/** How a run that repeats another compares with it, step by step. */
export type ReplayVerdict =
  | { readonly verdict: 'identical'; readonly steps: number }
  | { readonly verdict: 'within-noise'; readonly steps: number; readonly largest: number; readonly at: number }
  | { readonly verdict: 'diverged'; readonly steps: number; readonly largest: number; readonly at: number }

/** Where and with what an attempt trained; numbers are promised to be the same only where all of it is. */
export interface Surroundings {
  readonly host: string
  readonly device: string
  readonly torch: string
  readonly threads: number
  readonly worldSize: number
}

/** Relative difference of two losses up to which machines may differ without a cause in the settings. */
const noise = { full: 1e-3, half: 1e-2 } as const

/**
 * Compares losses and gradient norms at equal steps. `at` is the first step beyond the noise, or that of the largest difference
 * within it. A step that one of both lacks counts as divergence at that step.
 */
export function compareReplay(original: readonly StepPoint[], replay: readonly StepPoint[], precision: keyof typeof noise): ReplayVerdict {
  const replayed = new Map(replay.map((point) => [point.step, point]))
  let largest = 0
  let at = 0
  for (const point of original) {
    const other = replayed.get(point.step)
    const difference = other ? differenceOf(point, other) : Number.POSITIVE_INFINITY
    if (difference > noise[precision]) return { verdict: 'diverged', steps: original.length, largest: difference, at: point.step }
    if (difference > largest) {
      largest = difference
      at = point.step
    }
  }
  if (largest === 0) return { verdict: 'identical', steps: original.length }
  return { verdict: 'within-noise', steps: original.length, largest, at }
}

function differenceOf(a: StepPoint, b: StepPoint): number {
  return Math.max(relative(a.loss, b.loss), relative(a.gradientNorm ?? 0, b.gradientNorm ?? 0))
}

function relative(a: number, b: number): number {
  if (Object.is(a, b)) return 0
  const size = Math.max(Math.abs(a), Math.abs(b))
  return Number.isFinite(a - b) ? Math.abs(a - b) / size : Number.POSITIVE_INFINITY
}

/** What differs between two places, in words; empty where bit-identical numbers can be expected. */
export function surroundingsDiffer(a: Surroundings, b: Surroundings): string[] {
  const names = ['host', 'device', 'torch', 'threads', 'worldSize'] as const
  return names.filter((name) => a[name] !== b[name]).map((name) => `${name} ${a[name]} → ${b[name]}`)
}
