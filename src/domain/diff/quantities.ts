import { UserError } from '../errors.ts'
import { clipShape, latentShape, tokenShape, type VideoShape, vaeStride, volume } from '../shapes.ts'
import type { Stage } from '../stage/schema.ts'

/*
 * What follows from several settings together. Letters: D model width, L blocks.
 */

/** The numbers whose product is the clips of one optimizer step. */
export interface BatchFactors {
  readonly perDevice: number
  readonly accumulate: number
  /** Ranks divided by those that share one clip. */
  readonly replicas: number
  /** Clips a sequence-parallel group takes per pass; 1 without one. */
  readonly perGroup: number
}

export function batchFactors({ batch, parallel }: Stage): BatchFactors {
  const ranks = parallel.nodes * parallel.processes
  return {
    perDevice: batch.perDevice,
    accumulate: batch.accumulate,
    replicas: ranks / (parallel.sequence * parallel.tensor),
    perGroup: parallel.sequence > 1 ? parallel.sequenceBatch : 1,
  }
}

/** Clips of one optimizer step over all ranks. */
export function globalBatch(stage: Stage): number {
  const { perDevice, accumulate, replicas, perGroup } = batchFactors(stage)
  return perDevice * accumulate * replicas * perGroup
}

/** Latent cells of a clip; undefined where the clip does not fill whole cells. */
export function latentOf(stage: Stage): VideoShape | undefined {
  try {
    return latentShape(trainedClip(stage), vaeStride(stage))
  } catch (error) {
    if (error instanceof UserError) return undefined
    throw error
  }
}

function trainedClip(stage: Stage): VideoShape {
  const side = stage.kind === 'vae' ? stage.data.cropSize : null
  return side === null ? clipShape(stage) : { ...clipShape(stage), height: side, width: side }
}

/** Tokens of a clip with the images trained beside it; undefined for a VAE or a clip that fills no whole cells. */
export function tokensPerClip(stage: Stage): number | undefined {
  const latent = latentOf(stage)
  if (latent === undefined || stage.kind === 'vae') return undefined
  const tokens = tokenShape(latent, stage.model.patch)
  return volume(tokens) + stage.data.imagesPerClip * tokens.height * tokens.width
}

/** Seconds of film in a clip at the rate it is trained at. */
export function clipSeconds({ shape, data }: Stage): number {
  return shape.frames / (data.fps * data.speed)
}

const counted: ReadonlySet<string> = new Set(['OpenSoraT2V_v1_3', 'OpenSoraInpaint_v1_3', 'OpenSoraT2V', 'OpenSoraInpaint'])

/**
 * Parameters of the diffusion transformer, tensor by tensor; undefined for classes whose layout is another.
 * The 2B/122 model comes to 2,771.98 million, as upstream's.
 */
export function transformerParameters({ kind, model, vae }: Stage): number | undefined {
  if (kind === 'vae' || !counted.has(model.class)) return undefined
  const D = model.heads * model.headDim
  const [time = 1, height = 1, width = 1] = model.patch
  const linear = (from: number, to: number) => from * to + to
  const cells = height * width
  const embeddings =
    linear(vae.latentChannels * cells, D) + linear(model.textChannels, D) + linear(D, D) + linear(256, D) + linear(D, D) + linear(D, 6 * D)
  const block = 6 * D + 8 * linear(D, D) + linear(D, 4 * D) + linear(4 * D, D)
  const head = 2 * D + linear(D, time * cells * vae.latentChannels)
  const masks = kind === 'inpaint' ? linear(vae.latentChannels * cells, D) + linear(4 * cells, D) + 2 * D * D : 0
  return embeddings + model.layers * block + head + masks
}

/**
 * GiB per rank of weights, gradients, both Adam moments and EMA in fp32 when everything is trained; activations are not in it.
 * An estimate for comparing two stages, not for fitting one to a device.
 */
export function stateGiB(stage: Stage): number | undefined {
  const parameters = transformerParameters(stage)
  if (parameters === undefined) return undefined
  const bytes = 4 + 4 + 8 + (stage.ema.enabled ? 4 : 0)
  const { nodes, processes, strategy } = stage.parallel
  const shards = { ddp: 1, fsdp2: nodes * processes, hsdp: processes }[strategy]
  return (parameters * bytes) / shards / 1024 ** 3
}
