import { shapeText, volume } from '../shapes.ts'
import type { Stage } from '../stage/schema.ts'
import { withoutNoise } from './change.ts'
import {
  type BatchFactors,
  batchFactors,
  clipSeconds,
  globalBatch,
  latentOf,
  stateGiB,
  tokensPerClip,
  transformerParameters,
} from './quantities.ts'

/** A consequence of several settings together, on both sides. */
export interface Derived {
  readonly name: string
  /** null where a side has no such number. */
  readonly before: number | string | null
  readonly after: number | string | null
  readonly unit?: string
  readonly ratio?: number
  /** What a reader would otherwise have to work out. */
  readonly note?: string
}

interface Quantity {
  readonly name: string
  readonly unit?: string
  readonly of: (stage: Stage) => number | string | undefined
  readonly note?: (a: Stage, b: Stage) => string | undefined
}

/** Clips in the data set, where somebody counted them. */
export interface DataSize {
  readonly clips?: number
}

const quantities: readonly Quantity[] = [
  { name: 'global batch', unit: 'clip/step', of: globalBatch, note: batchNote },
  { name: 'tokens per clip', unit: 'token', of: tokensPerClip },
  { name: 'tokens per step', unit: 'token/step', of: tokensPerStep, note: tokenNote },
  { name: 'latent shape', unit: 'cell', of: (stage) => mapped(latentOf(stage), shapeText) },
  { name: 'latent cells per clip', unit: 'cell', of: (stage) => mapped(latentOf(stage), volume) },
  { name: 'clip length', unit: 's', of: clipSeconds },
  { name: 'samples seen', unit: 'clip', of: (stage) => globalBatch(stage) * stage.steps, note: sampleNote },
  { name: 'model parameters', unit: 'parameter', of: transformerParameters },
  { name: 'training state per rank, estimate', unit: 'GiB', of: stateGiB },
]

/** What follows from two stages' settings, whether or not it differs. */
export function derivedOf(a: Stage, b: Stage, { clips }: DataSize = {}): Derived[] {
  const perEpoch: Quantity[] =
    clips === undefined ? [] : [{ name: 'steps per epoch', unit: 'step', of: (stage) => Math.floor(clips / globalBatch(stage)) }]
  return [...quantities, ...perEpoch].flatMap((quantity) => {
    const [before, after] = [quantity.of(a), quantity.of(b)]
    if (before === undefined && after === undefined) return []
    const note = quantity.note?.(a, b)
    return [
      {
        name: quantity.name,
        before: tidy(before),
        after: tidy(after),
        ...(quantity.unit ? { unit: quantity.unit } : {}),
        ...ratioOf(before, after),
        ...(note ? { note } : {}),
      },
    ]
  })
}

/** What follows from one stage's settings, by name. */
export function consequencesOf(stage: Stage): { name: string; value: number | string | null; unit?: string }[] {
  return derivedOf(stage, stage).map(({ name, after, unit }) => ({ name, value: after, ...(unit ? { unit } : {}) }))
}

function tidy(value: number | string | undefined): number | string | null {
  return typeof value === 'number' ? withoutNoise(value) : (value ?? null)
}

function ratioOf(before: unknown, after: unknown): { ratio?: number } {
  if (typeof before !== 'number' || typeof after !== 'number' || before === 0 || before === after) return {}
  return { ratio: withoutNoise(after / before) }
}

function mapped<T, R>(value: T | undefined, to: (value: T) => R): R | undefined {
  return value === undefined ? undefined : to(value)
}

function tokensPerStep(stage: Stage): number | undefined {
  return mapped(tokensPerClip(stage), (tokens) => tokens * globalBatch(stage))
}

const factorNames = { perDevice: 'per device', accumulate: 'accumulated', replicas: 'replicas', perGroup: 'per group' } as const

/** `8 × 2 = 16 × 1: global batch unchanged`, when its factors moved against each other. */
function batchNote(a: Stage, b: Stage): string | undefined {
  const [before, after] = [batchFactors(a), batchFactors(b)]
  const names = (Object.keys(factorNames) as (keyof BatchFactors)[]).filter((name) => before[name] !== 1 || after[name] !== 1)
  if (names.every((name) => before[name] === after[name]) || names.length < 2) return undefined
  const product = (factors: BatchFactors) => names.map((name) => withoutNoise(factors[name])).join(' × ')
  const meaning = names.map((name) => factorNames[name]).join(' × ')
  return globalBatch(a) === globalBatch(b)
    ? `${product(before)} = ${product(after)}: global batch unchanged (${meaning})`
    : `${product(before)} → ${product(after)} (${meaning})`
}

function tokenNote(a: Stage, b: Stage): string | undefined {
  const [before, after] = [tokensPerStep(a), tokensPerStep(b)]
  if (before === undefined || before !== after || tokensPerClip(a) === tokensPerClip(b)) return undefined
  return 'larger clips and smaller batch cancel out: tokens per step unchanged'
}

function sampleNote(a: Stage, b: Stage): string | undefined {
  if (a.steps === b.steps || globalBatch(a) * a.steps !== globalBatch(b) * b.steps) return undefined
  return `${a.steps} steps × ${globalBatch(a)} = ${b.steps} steps × ${globalBatch(b)}: samples seen unchanged`
}
