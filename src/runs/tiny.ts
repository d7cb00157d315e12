import type { StageSide } from '../domain/stage/origin.ts'
import { type Stage, stageSchema } from '../domain/stage/schema.ts'

const steps = 4

/** `vae.weights` of a stage that is only tried: an autoencoder nobody trained. The trainer refuses it for long stages. */
export const randomWeights = 'random'

/**
 * The same stage made small enough for a laptop CPU: few layers, narrow, short and low clips, a handful of steps, from random weights,
 * on the latents of a small autoencoder that is random as well.
 * Objective, optimiser, schedule, freezing and data rules stay as they are. Left out is what a laptop has no use for or this trainer
 * not yet: ranks, joint images, trackers, and the perceptual term where its weights are not at hand.
 */
export function tinyStage(side: StageSide): StageSide {
  const { stage } = side
  const stride = stage.vae.stride[0] ?? 4
  const isSuv = stage.model.class === 'SparseUMMDiT'
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
      // Counts from the length of a clip, which is a fraction here of what the stage trains on.
      maxDurationRatio: Math.max(stage.data.maxDurationRatio, 1000),
      minBucketBatches: 0,
      heldOutClips: 2,
      workers: 1,
      cache: 'off',
      cropSize: stage.data.cropSize === null ? null : 32,
      imagesPerClip: 0,
      groupByShape: true,
    },
    objective: { ...stage.objective, perceptualWeight: stage.objective.lpipsWeights === null ? 0 : stage.objective.perceptualWeight },
    text: { ...stage.text, encoder: 'bytes', secondEncoder: null, maxLength: 32 },
    model: {
      ...stage.model,
      layers: 4,
      heads: 2,
      headDim: isSuv ? 32 : 24,
      textChannels: 32,
      sparseBlocks: stage.model.sparse ? [2, 3] : null,
      stageLayers: isSuv ? [2, 2, 2] : null,
      stageSparseN: isSuv ? [1, 2, 1] : null,
    },
    vae: {
      ...stage.vae,
      weights: stage.kind === 'vae' ? null : randomWeights,
      baseChannels: stage.vae.norm === 'groupnorm' ? 32 : 16,
      encoderFlowChannels: 16,
      decoderFlowChannels: 16,
      residualBlocks: 1,
      connectLayers: 1,
      attention: false,
    },
    parallel: { ...stage.parallel, nodes: 1, processes: 1, sequence: 1, sequenceBatch: 1, tensor: 1, strategy: 'ddp' },
    memory: {
      ...stage.memory,
      precision: 'fp32',
      vaePrecision: 'fp32',
      compile: 'none',
      device: 'auto',
      offload: false,
    },
    scaleLearningRate: false,
    reportTo: [],
    checkpoint: { ...stage.checkpoint, everySteps: steps },
    heldOut: { ...stage.heldOut, everySteps: null, draws: 2 },
    samples: { ...stage.samples, everySteps: null, prompts: [], steps: 4 },
  }
  return { ...side, label: `${side.label} (tiny)`, stage: stageSchema.parse(changed) }
}
