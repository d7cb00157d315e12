import type { TrainerEvent } from '../protocol.ts'
import type { StepPoint } from './state.ts'

/** A command that a replay follows: at the first step that saw it, once the run has gone back as often as it had then. */
export interface RepeatedCommand {
  readonly id: string
  readonly name: string
  readonly status: 'applied'
  readonly step: number
  readonly rollbacks: number
  readonly path?: unknown
  readonly effective?: unknown
}

/** Commands that act on what is trained, or on when phases and the end come. */
const actOnNumbers: readonly string[] = ['set', 'thaw', 'measure']

/**
 * What a replay of a run has to follow, up to the step `until` where the run did not come to its own end. Where the run went back to
 * checkpoints, the replay makes its own at the same steps, so that it goes back to the same ones.
 */
export function repeatedCommands(events: readonly TrainerEvent[], until: number | undefined): RepeatedCommand[] {
  const backs = events.filter((event) => event.event === 'incident').filter(({ rolledBackTo }) => typeof rolledBackTo === 'number')
  const found: RepeatedCommand[] = []
  let rollbacks = 0
  const add = (name: string, step: number, more: Partial<RepeatedCommand> = {}) =>
    found.push({ id: `replay-${found.length}`, name, status: 'applied', step, rollbacks: reachedAt(step, rollbacks, backs), ...more })
  if (backs.length > 0) add('set', 1, { path: 'checkpoint.everyMinutes', effective: null })
  for (const event of events) {
    if (event.event === 'incident' && typeof event.rolledBackTo === 'number') rollbacks += 1
    if (event.event === 'checkpoint' && backs.length > 0) add('checkpoint', event.step + 1)
    if (event.event !== 'command' || event.status !== 'applied' || !actOnNumbers.includes(event.name)) continue
    // When a run writes a checkpoint of itself is told by its checkpoints.
    if (event.path === 'checkpoint.everyMinutes' && backs.length > 0) continue
    add(event.name, event.step, { path: event.path, effective: event.effective })
  }
  if (until !== undefined) found.push({ id: 'replay-end', name: 'stop', status: 'applied', step: until + 1, rollbacks: backs.length })
  return found
}

/** A step that a roll-back came before of, in an attempt that was broken off earlier, is only reached after it. */
function reachedAt(step: number, rollbacks: number, backs: readonly { readonly step: number }[]): number {
  const next = backs[rollbacks]
  return next && step > next.step ? reachedAt(step, rollbacks + 1, backs) : rollbacks
}

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
