import { z } from 'zod'
import type { Stage } from '../domain/stage/schema.ts'
import { osplanEvents } from './osplan-request.ts'
import type { RunsWorld } from './world.ts'

const shape = z.object({ clips: z.int(), frames: z.int(), height: z.int(), width: z.int() })
const memory = z.object({
  /** Bytes by the estimate, beyond what the process holds before anything is built. */
  estimated: z.number(),
  parts: z.record(z.string(), z.number()),
  /** Bytes beside a step while a checkpoint is copied and written; 0 on a GPU, where they lie in the host's memory. */
  checkpoint: z.number(),
  /** Bytes of Python and its libraries; 0 on a GPU, whose allocator knows nothing of them. */
  process: z.number(),
  available: z.number(),
})
const way = z.object({
  settings: z.record(z.string(), z.unknown()),
  /** With the copies of a checkpoint where they lie in the same memory. */
  bytes: z.number(),
  slowdown: z.number(),
  /** Whether the stage learns something else by it. */
  changesTraining: z.boolean(),
})

const estimated = z.object({
  event: z.literal('estimated'),
  largest: shape,
  seconds: z.object({ estimated: z.number() }),
  memory,
  /** One for each phase of a stage with several; the estimate is of the dearest. */
  phases: z.array(z.object({ start: z.int(), waitsForPlateau: z.boolean(), bytes: z.number(), seconds: z.number() })),
  ways: z.array(way),
})
const probed = z.object({
  event: z.literal('probed'),
  largest: shape,
  device: z.string(),
  threads: z.int(),
  /** Ranks that made the steps together. */
  ranks: z.int(),
  steps: z.int(),
  seconds: z.object({
    measured: z.number(),
    each: z.array(z.number()),
    split: z.record(z.string(), z.number()),
    estimated: z.number(),
    /** The estimate over the measurement, less 1. */
    error: z.number(),
    /** Steps the calibrated estimate was checked on: of a bucket in between, or of the largest once more. */
    check: z.object({ shape, predicted: z.number(), measured: z.number(), error: z.number() }),
    /** Seconds one core takes to read the clips of a step; 0 where none are read. */
    loading: z.number(),
    /** Of a mean step over the buckets, while the clips of the next are read. */
    perStep: z.number(),
    stage: z.number(),
  }),
  memory: memory.extend({ measured: z.number(), error: z.number() }),
})

/** Memory and time of a stage, estimated from a step gone through without numbers, and what would need less. */
export type Estimate = z.output<typeof estimated>
/** The same, calibrated by steps of the largest bucket. */
export type Probe = z.output<typeof probed>

/** Files a stage starts from and trains on; null where there are none yet. */
export interface EstimateInputs {
  readonly weights: string | null
  readonly vae: string | null
  readonly data: string | null
  readonly cache: string | null
}

/** Estimates a stage. Raises UserErrors KIND_UNTRAINABLE, SETTING_UNSUPPORTED and DATA_…. */
export async function estimateStage(stage: Stage, inputs: EstimateInputs, world: RunsWorld): Promise<Estimate> {
  const [event] = await osplanEvents('probe', { stage, inputs, steps: false }, world)
  return estimated.parse(event)
}

/** Makes some steps of a stage's largest bucket on this machine and says what they took. Raises what `estimateStage` raises. */
export async function probeStage(stage: Stage, inputs: EstimateInputs, world: RunsWorld): Promise<Probe> {
  const [event] = await osplanEvents('probe', { stage, inputs, steps: true }, world)
  return probed.parse(event)
}
