import type { Stage } from '../domain/stage/schema.ts'

type ModelClass = Stage['model']['class']
type VaeClass = Stage['vae']['class']

interface Size {
  readonly layers: number
  readonly heads: number
  readonly headDim: number
}

/** Sizes by upstream's class and size name, from its model registries. */
const sizes: Readonly<Record<string, Size>> = {
  'OpenSoraT2V_v1_3-2B': { layers: 32, heads: 24, headDim: 96 },
  'OpenSoraInpaint_v1_3-2B': { layers: 32, heads: 24, headDim: 96 },
  'OpenSoraT2V-S': { layers: 28, heads: 16, headDim: 96 },
  'OpenSoraT2V-B': { layers: 32, heads: 16, headDim: 96 },
  'OpenSoraT2V-L': { layers: 40, heads: 16, headDim: 128 },
  'OpenSoraT2V-ROPE-L': { layers: 32, heads: 24, headDim: 96 },
  'OpenSoraInpaint-ROPE-L': { layers: 32, heads: 24, headDim: 96 },
  'OpenSoraInpaint-L': { layers: 40, heads: 16, headDim: 128 },
  'LatteT2V-XL': { layers: 28, heads: 16, headDim: 72 },
  'Latte-XL': { layers: 28, heads: 16, headDim: 72 },
  'DiT-XL': { layers: 28, heads: 16, headDim: 72 },
}

/** Upstream's classes that have another name here, by the start of their name. */
const classes: readonly (readonly [RegExp, ModelClass])[] = [
  [/^OpenSoraT2V_v1_3$/, 'OpenSoraT2V_v1_3'],
  [/^OpenSoraInpaint_v1_3$/, 'OpenSoraInpaint_v1_3'],
  [/^OpenSoraT2V$/, 'OpenSoraT2V'],
  [/^OpenSoraInpaint$/, 'OpenSoraInpaint'],
  [/^LatteT2V$/, 'LatteT2V'],
  [/^Latte$/, 'Latte'],
  [/^DiT$/, 'DiT'],
  [/^OpenSoraT2V_v1_5$/, 'SparseUMMDiT'],
  [/^UDiT/, 'UDiT'],
  [/^OpenSoraInpaint/, 'OpenSoraInpaint'],
  [/^OpenSora/, 'OpenSoraT2V'],
]

export interface NamedModel {
  readonly class: ModelClass
  readonly variant: string
  readonly size: Size | undefined
  readonly patch: readonly [number, number, number] | undefined
  /** Whether upstream's class is the one named `class` here, and not a relative of it. */
  readonly exact: boolean
}

/** What `OpenSoraT2V-ROPE-L/122` says: class, size and patch (time, height, width). */
export function modelOfName(name: string): NamedModel {
  const [, family = name, variant = ''] = /^([A-Za-z0-9_]+?)(?:-(.+))?$/.exec(name) ?? []
  const found = classes.find(([pattern]) => pattern.test(family))
  const [size = ''] = name.split('/')
  const [, t, h, w] = /\/(\d)(\d)(\d)(?:\/|$)/.exec(name) ?? /_(\d)(\d)(\d)$/.exec(name) ?? []
  const modelClass = found?.[1] ?? 'OpenSoraT2V'
  return {
    class: modelClass,
    variant,
    size: sizes[size],
    patch: t === undefined ? undefined : [Number(t), Number(h), Number(w)],
    exact: modelClass === family,
  }
}

export interface NamedVae {
  readonly class: VaeClass
  readonly stride: readonly [number, number]
  readonly latentChannels: number
}

/** What `WFVAEModel_D8_4x8x8` says; an image autoencoder where the name is none of upstream's video ones. */
export function vaeOfName(name: string): NamedVae {
  const [, family, depth, time, height] = /^([A-Za-z]+?Model)(?:_D(\d+))?(?:_(\d+)x(\d+)x(\d+))?$/.exec(name) ?? []
  const stride = [Number(time ?? 4), Number(height ?? 8)] as const
  if (family === 'WFVAEModel') return { class: 'WFVAEModel', stride, latentChannels: Number(depth ?? 8) }
  if (family !== undefined) return { class: 'CausalVAEModel', stride, latentChannels: Number(depth ?? 4) }
  return { class: 'image', stride: [1, 8], latentChannels: 4 }
}

/** Channels of the states of upstream's text encoders, by a part of their name. */
export function textChannelsOfName(name: string): number | undefined {
  if (/t5.*xxl/i.test(name)) return 4096
  if (/t5.*xl/i.test(name)) return 2048
  return undefined
}
