import { z } from 'zod'
import { batchFactors, globalBatch } from './diff/quantities.ts'
import { UserError } from './errors.ts'
import { formatVersion } from './protocol.ts'
import type { Stage } from './stage/schema.ts'

/*
 * How many ranks an attempt starts. The stage asks for a number; a run may go on with another, and keeps its global batch.
 */

export const ranks = z.strictObject({
  formatVersion: z.literal(formatVersion),
  nodes: z.int().positive(),
  /** Ranks per machine. */
  processes: z.int().positive(),
})

export type Ranks = z.infer<typeof ranks>

/** Passes of a step that keep the global batch of a stage on other ranks. Raises UserError GLOBAL_BATCH where no whole number does. */
export function passesOn({ nodes, processes }: Omit<Ranks, 'formatVersion'>, stage: Stage): number {
  const { perDevice, perGroup } = batchFactors(stage)
  const shared = stage.parallel.sequence * stage.parallel.tensor
  const count = nodes * processes
  const passes = (globalBatch(stage) * shared) / (perDevice * perGroup * count)
  if (count % shared === 0 && Number.isInteger(passes)) return passes
  throw new UserError(
    'GLOBAL_BATCH',
    `${nodes} × ${processes} ranks: expected a number that shares a global batch of ${globalBatch(stage)} clips in passes of ${perDevice * perGroup}, got ${count}`,
    { hint: `use ${rankCounts(stage).join(', ')} ranks in all` },
  )
}

/** Every number of ranks that keeps the global batch of a stage, from the fewest. */
export function rankCounts(stage: Stage): number[] {
  const { perDevice, perGroup } = batchFactors(stage)
  const passes = globalBatch(stage) / (perDevice * perGroup)
  const shared = stage.parallel.sequence * stage.parallel.tensor
  return Array.from({ length: passes }, (_, place) => place + 1)
    .filter((replicas) => passes % replicas === 0)
    .map((replicas) => replicas * shared)
}
