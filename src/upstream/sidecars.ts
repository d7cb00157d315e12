import { parse as parseYaml } from 'yaml'
import type { Finding } from '../domain/stage/origin.ts'
import type { Settings } from './flag-fields.ts'
import type { ReadText } from './launch-config.ts'
import type { StageBuilder } from './stage-builder.ts'
import type { FlagValue, Trainer } from './trainer.ts'

/** Fields in the files a command names: the VAE's model configuration, the mix of masks. */
export function readSidecars(
  builder: StageBuilder,
  values: ReadonlyMap<string, FlagValue>,
  trainer: Trainer,
  read: ReadText,
  script: string,
): Finding[] {
  const findings: Finding[] = []
  const sidecar = (flag: string, fields: (content: Record<string, unknown>) => Settings) => {
    const path = values.get(flag)
    if (typeof path !== 'string' || path === '') return
    const content = contentOf(path, read)
    if (content) builder.set(fields(content), { layer: 'script', file: path, line: 1, column: 1, name: flag })
    else if (read(trainer.path) !== undefined) findings.push(missing(path, flag, script))
  }
  if (trainer.family === 'vae') {
    const path = String(values.get('model_config') ?? '')
    const [, depth] = /(\d+)dim/.exec(path) ?? []
    if (depth)
      builder.set({ 'vae.latentChannels': Number(depth) }, { layer: 'script', file: script, line: 1, column: 1, name: 'model_config' })
    sidecar('model_config', vaeSettings)
  }
  sidecar('mask_config', maskSettings)
  return findings
}

function contentOf(path: string, read: ReadText): Record<string, unknown> | undefined {
  const text = read(path)
  if (text === undefined) return undefined
  try {
    const value: unknown = parseYaml(text)
    return value !== null && typeof value === 'object' ? (value as Record<string, unknown>) : undefined
  } catch {
    return undefined
  }
}

function missing(path: string, flag: string, script: string): Finding {
  return {
    rule: 'missing-file',
    severity: 'error',
    message: `${path}: expected a file that --${flag} names, got none beside the trainer`,
    where: { file: script, line: 1, column: 1 },
    paths: [flag, path],
    hint: 'name a file of this version',
  }
}

function vaeSettings(config: Record<string, unknown>): Settings {
  const number = (name: string) => (typeof config[name] === 'number' ? config[name] : undefined)
  const name = String(config._class_name ?? '')
  return {
    'vae.class': /^WFVAE/.test(name) ? 'WFVAEModel' : /^Causal/.test(name) ? 'CausalVAEModel' : undefined,
    'vae.latentChannels': number('latent_dim') ?? number('embed_dim'),
    'vae.baseChannels': number('base_channels') ?? number('hidden_size'),
    'vae.encoderFlowChannels': number('encoder_energy_flow_hidden_size'),
    'vae.decoderFlowChannels': number('decoder_energy_flow_hidden_size'),
    'vae.residualBlocks': number('encoder_num_resblocks') ?? number('num_res_blocks'),
    'vae.connectLayers': number('connect_res_layer_num'),
    'vae.attention': typeof config.use_attention === 'boolean' ? config.use_attention : undefined,
    'vae.norm': config.norm_type === 'groupnorm' || config.norm_type === 'layernorm' ? config.norm_type : undefined,
  }
}

/** Kinds of mask a file leaves out are never drawn. */
const noMasks = { t2iv: 0, i2v: 0, transition: 0, continuation: 0, clear: 0, random_temporal: 0 }

function maskSettings(config: Record<string, unknown>): Settings {
  const ratios = config.mask_type_ratio_dict_video
  return {
    'objective.maskRatios': ratios !== null && typeof ratios === 'object' ? { ...noMasks, ...ratios } : undefined,
    'objective.minClear': config.min_clear_ratio,
    'objective.maxClear': config.max_clear_ratio,
  }
}
