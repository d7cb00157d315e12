import type { Stage } from '../domain/stage/schema.ts'
import type { Settings } from './flag-fields.ts'
import type { Trainer } from './trainer.ts'

const kinds: Readonly<Record<Trainer['family'], Stage['kind']>> = {
  diffusion: 'text-to-video',
  inpaint: 'inpaint',
  lora: 'lora',
  vae: 'vae',
  videogpt: 'vae',
  class: 'class-to-video',
  megatron: 'text-to-video',
}

/** What a release does that no flag of it says. */
export function releaseFacts({ family, version, flags }: Trainer): Settings {
  const kind = kinds[family]
  const gaussian = /^v1\.[01]\./.test(version)
  if (kind === 'vae') return vaeFacts(version, 'wavelet_loss' in flags)
  return {
    kind,
    'clip.mode': 'norm',
    'data.minFrames': /^v1\.3/.test(version) ? 29 : 1,
    'data.minBucketBatches': /^v1\.3/.test(version) ? 4 : 0,
    'shape.fixed': true,
    'model.rope': !('use_rope' in flags) && !gaussian,
    'model.sparse': false,
    'objective.name': 'epsilon',
    'objective.learnedVariance': gaussian,
    'memory.vaePrecision': 'vae_fp32' in flags ? 'bf16' : 'fp32',
    'compat.minSnr': 'upstream',
    'compat.captions': 'upstream',
    'compat.times': 'upstream',
    'checkpoint.keepBest': 0,
  }
}

function vaeFacts(version: string, wavelet: boolean): Settings {
  const perceptual = /^v1\.0/.test(version) ? { 'objective.perceptualWeight': 1 } : {}
  return {
    kind: 'vae',
    'objective.name': 'reconstruction',
    'vae.class': wavelet ? 'WFVAEModel' : 'CausalVAEModel',
    'vae.latentChannels': 4,
    'clip.mode': 'none',
    'data.crop': 'random',
    'checkpoint.keepBest': 0,
    ...perceptual,
  }
}
