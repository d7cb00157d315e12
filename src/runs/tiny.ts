import type { StageSide } from '../domain/stage/origin.ts'
import { type Stage, stageSchema } from '../domain/stage/schema.ts'

const steps = 4

/**
 * The same stage made small enough for a laptop CPU: few layers, narrow, short and low clips, a handful of steps, from random weights.
 * Objective, optimiser, schedule, freezing and data rules stay as they are.
 */
export function tinyStage(side: StageSide): StageSide {
  const { stage } = side
  const stride = stage.vae.stride[0] ?? 4
  const changed: Stage = {
    ...stage,
    name: `${stage.name}-tiny`.slice(0, 64),
    steps,
    epochs: null,
    init: { ...stage.init, weights: null, continueFrom: null },
    schedule: { ...stage.schedule, warmupSteps: Math.min(stage.schedule.warmupSteps, 1), horizonSteps: null },
    batch: { perDevice: Math.min(stage.batch.perDevice, 2), accumulate: Math.min(stage.batch.accumulate, 2) },
    shape: { ...stage.shape, frames: stage.shape.frames === 1 ? 1 : 1 + 2 * stride, height: 64, width: 64, fixed: true },
    data: {
      ...stage.data,
      minFrames: 1,
      minBucketBatches: 0,
      heldOutClips: 2,
      workers: 1,
      cache: 'off',
      cropSize: stage.data.cropSize === null ? null : 32,
      imagesPerClip: 0,
    },
    text: { ...stage.text, encoder: 'bytes', secondEncoder: null, maxLength: 32 },
    model: {
      ...stage.model,
      layers: 4,
      heads: 2,
      headDim: 24,
      textChannels: 32,
      sparseBlocks: stage.model.sparse ? [2, 3] : null,
      stageLayers: stage.model.stageLayers && [1, 1, 1],
      stageSparseN: stage.model.stageSparseN && [1, 2, 1],
    },
    vae: {
      ...stage.vae,
      weights: null,
      baseChannels: 16,
      encoderFlowChannels: 16,
      decoderFlowChannels: 16,
      residualBlocks: 1,
      connectLayers: 1,
      attention: false,
    },
    parallel: { ...stage.parallel, nodes: 1, processes: 1, sequence: 1, sequenceBatch: 1, tensor: 1, strategy: 'ddp' },
    memory: { ...stage.memory, precision: 'fp32', vaePrecision: 'fp32', compile: 'none', device: 'auto', offload: false },
    checkpoint: { ...stage.checkpoint, everySteps: steps },
    heldOut: { ...stage.heldOut, everySteps: null, draws: 2 },
    samples: { ...stage.samples, everySteps: null, prompts: [], steps: 4 },
  }
  return { ...side, label: `${side.label} (tiny)`, stage: stageSchema.parse(changed) }
}
