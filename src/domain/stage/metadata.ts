import type { z } from 'zod'

/** The groups of the fine-tuning checklist, in the order in which they are shown everywhere. */
export const groups = [
  'initial weights',
  'optimiser',
  'data',
  'objective',
  'trainable parameters',
  'model',
  'memory and parallelism',
  'bookkeeping',
] as const
export type Group = (typeof groups)[number]

/** What changing a field costs a run, from nothing to everything. */
export const impacts = ['none', 'live', 'restart', 'resets-optimizer', 'stale-cache', 'breaks-weights'] as const
export type Impact = (typeof impacts)[number]

/**
 * How two values of a field compare: as a ratio, as a difference, as an unordered set, as an ordered sequence,
 * as a place, as one of several names, or as on and off.
 */
export type FieldKind = 'multiplicative' | 'additive' | 'set' | 'sequence' | 'path' | 'choice' | 'switch' | 'text'

export interface FieldMeta {
  readonly group: Group
  readonly kind: FieldKind
  readonly impact: Impact
  /** One line: what the field does. */
  readonly meaning: string
  /** Unit of a number, in the singular where it is a word: `step`, `px`, `frame/s`. */
  readonly unit?: string
  /** What a change of it means for fine-tuning; shown by the stage diff. */
  readonly why?: string
  /** The day it came, for fields newer than the first runs: a stored stage without it takes the default, which does what was done before. */
  readonly added?: string
  /** Upstream's names for it, newest first. */
  readonly upstream?: readonly string[]
}

/** Attaches metadata to the schema of one leaf. */
export function field<T extends z.ZodType>(type: T, meta: FieldMeta): T {
  return type.meta({ ...meta, description: meta.meaning }) as T
}
