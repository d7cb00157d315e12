import { UserError } from './errors.ts'
import type { Stage } from './stage/schema.ts'

/** Frames × height × width of a clip in pixels, in latent cells or in tokens. */
export interface VideoShape {
  readonly unit: 'pixel' | 'latent' | 'token'
  readonly frames: number
  readonly height: number
  readonly width: number
}

/** Pixels per latent cell. */
export interface VaeStride {
  readonly time: number
  readonly space: number
}

/** Stride of a stage's autoencoder; an image autoencoder takes each frame by itself. */
export function vaeStride(stage: Stage): VaeStride {
  const [time = 1, space = 1] = stage.vae.stride
  return { time: stage.vae.class === 'image' ? 1 : time, space }
}

/**
 * The grid of latent cells a causal VAE makes from a clip.
 * A causal VAE keeps the first frame whole and groups the rest, so 93 frames at stride 4 become 24.
 * Raises UserError SHAPE_FRAMES or SHAPE_SIZE where the clip does not fill whole cells.
 */
export function latentShape(clip: VideoShape, stride: VaeStride): VideoShape {
  const extra = (clip.frames - 1) % stride.time
  if (extra !== 0) {
    throw new UserError('SHAPE_FRAMES', `expected 1 + ${stride.time}k frames, got ${clip.frames}`, {
      hint: `use ${clip.frames - extra} or ${clip.frames - extra + stride.time}`,
    })
  }
  for (const side of ['height', 'width'] as const) {
    const rest = clip[side] % stride.space
    if (rest !== 0) {
      throw new UserError('SHAPE_SIZE', `expected a ${side} divisible by ${stride.space}, got ${clip[side]}`, {
        hint: `use ${multiples(clip[side], stride.space)}`,
      })
    }
  }
  return {
    unit: 'latent',
    frames: (clip.frames - 1) / stride.time + 1,
    height: clip.height / stride.space,
    width: clip.width / stride.space,
  }
}

/** The two multiples around a length, as a hint says them; one where the lower is zero. */
export function multiples(length: number, of: number): string {
  const below = length - (length % of)
  return below > 0 ? `${below} or ${below + of}` : `${below + of}`
}

/** Tokens the transformer sees for a latent; sides that a patch does not fill are padded up. */
export function tokenShape(latent: VideoShape, patch: readonly number[]): VideoShape {
  const [time = 1, height = 1, width = 1] = patch
  return {
    unit: 'token',
    frames: Math.ceil(latent.frames / time),
    height: Math.ceil(latent.height / height),
    width: Math.ceil(latent.width / width),
  }
}

/** Cells of a shape. */
export function volume({ frames, height, width }: VideoShape): number {
  return frames * height * width
}

/** `24×60×80`. */
export function shapeText({ frames, height, width }: VideoShape): string {
  return `${frames}×${height}×${width}`
}

/** The pixels of a clip of a stage. */
export function clipShape(stage: Stage): VideoShape {
  return { unit: 'pixel', frames: stage.shape.frames, height: stage.shape.height, width: stage.shape.width }
}
