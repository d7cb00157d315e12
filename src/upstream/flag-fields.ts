import type { Stage, StagePath } from '../domain/stage/schema.ts'
import { modelOfName, textChannelsOfName, vaeOfName } from './model-names.ts'
import type { FlagSpec, FlagValue, Trainer } from './trainer.ts'

/** Values of fields by path; a number at the end of a path is a place in a list. */
export type Settings = Readonly<Record<StagePath, unknown>>

/** How one flag of upstream stands in a stage, and back. What `write` cannot give back is kept in `upstream`. */
export interface FlagField {
  readonly read: (value: FlagValue) => Settings
  /** The flag's value for a stage; undefined: the trainer's default. */
  readonly write: (stage: Stage, spec: FlagSpec) => FlagValue | undefined
}

/** Reads one field; its path is split once, because every import reads every field. */
function fieldReader(path: StagePath): (stage: Stage) => FlagValue {
  const names = path.split('.')
  return (stage) => {
    let value: unknown = stage
    for (const name of names) value = (value as Record<string, unknown> | undefined)?.[name]
    return value as FlagValue
  }
}

function same(path: StagePath): FlagField {
  return { read: (value) => (value === '' ? {} : { [path]: value }), write: fieldReader(path) }
}

function address(path: StagePath): FlagField {
  return { read: (value) => ({ [path]: value === '' ? null : value }), write: fieldReader(path) }
}

function named(path: StagePath, names: Readonly<Record<string, string>>, none?: string): FlagField {
  const back = new Map(Object.entries(names).map(([theirs, ours]) => [ours, theirs]))
  const readField = fieldReader(path)
  return {
    read: (value) => {
      const ours = value === null ? none : names[String(value)]
      return ours === undefined ? {} : { [path]: ours }
    },
    write: (stage, spec) => {
      const ours = String(readField(stage))
      return ours === none && spec.default === null ? undefined : back.get(ours)
    },
  }
}

function either(path: StagePath, on: unknown, off: unknown): FlagField {
  const readField = fieldReader(path)
  return { read: (value) => ({ [path]: value ? on : off }), write: (stage) => readField(stage) === on }
}

function listPlace(path: StagePath, place: number): FlagField {
  const readField = fieldReader(path)
  return {
    read: (value) => ({ [`${path}.${place}`]: value }),
    write: (stage) => (readField(stage) as readonly number[])[place],
  }
}

const predictions = { epsilon: 'epsilon', v_prediction: 'v-prediction', sample: 'sample' }
const precisions = { bf16: 'bf16', fp16: 'fp16', no: 'fp32' }

const model: FlagField = {
  read: (value) => {
    const { class: modelClass, variant, size, patch } = modelOfName(String(value))
    return {
      'model.class': modelClass,
      'model.variant': variant,
      ...(size ? { 'model.layers': size.layers, 'model.heads': size.heads, 'model.headDim': size.headDim } : {}),
      ...(patch ? { 'model.patch': [...patch] } : {}),
    }
  },
  write: ({ model: { class: modelClass, variant } }) => {
    if (variant === null) return undefined
    return variant === '' ? modelClass : `${modelClass}-${variant}`
  },
}

const autoencoder: FlagField = {
  read: (value) => {
    const vae = vaeOfName(String(value))
    return { 'vae.name': value, 'vae.class': vae.class, 'vae.stride': [...vae.stride], 'vae.latentChannels': vae.latentChannels }
  },
  write: ({ vae: { name } }) => name ?? undefined,
}

const textEncoder: FlagField = {
  read: (value) => {
    const channels = textChannelsOfName(String(value))
    return { ...(value ? { 'text.encoder': value } : {}), ...(channels === undefined ? {} : { 'model.textChannels': channels }) }
  },
  write: ({ text: { encoder } }) => encoder,
}

/** Upstream's adapters have an alpha equal to their rank. */
const adapterRank: FlagField = {
  read: (value) => ({ 'lora.rank': value, 'lora.alpha': value }),
  write: fieldReader('lora.rank'),
}

/** Read by a branch’s trainer of adapters only, so it is never written: the flag itself is kept. */
const baseOfAdapters: FlagField = { ...address('init.weights'), write: () => undefined }

const squareSize: FlagField = {
  read: (value) => ({ 'shape.height': value, 'shape.width': value }),
  write: ({ shape: { height, width } }) => (height === width ? height : undefined),
}

const weighting: FlagField = {
  read: (value) => ({
    'objective.times': value === 'logit_normal' ? 'logit-normal' : value === 'mode' ? 'mode' : 'uniform',
    'objective.weighting': value === 'sigma_sqrt' ? 'sigma-sqrt' : value === 'cosmap' ? 'cosmap' : 'none',
  }),
  write: ({ objective: { times, weighting: weight } }) => {
    if (weight !== 'none') return weight === 'cosmap' ? 'cosmap' : 'sigma_sqrt'
    return times === 'uniform' ? undefined : times.replace('-', '_')
  },
}

const flow: FlagField = {
  read: (value) => (value ? { 'objective.name': 'rectified-flow' } : {}),
  write: ({ objective: { name } }) => name === 'rectified-flow',
}

const betas = (name: 'scaled-linear' | 'cogvideox'): FlagField => ({
  read: (value) => (value ? { 'objective.betas': name } : {}),
  write: ({ objective }) => objective.betas === name,
})

const prediction: FlagField = {
  read: (value) => ({ 'objective.name': value === null ? 'epsilon' : predictions[value as keyof typeof predictions] }),
  write: ({ objective: { name } }, spec) => {
    if (name === 'epsilon') return spec.default === null ? undefined : 'epsilon'
    return name === 'v-prediction' ? 'v_prediction' : name === 'sample' ? 'sample' : undefined
  },
}

const optimizerName: FlagField = {
  read: (value) => ({ 'optimizer.name': /^prodigy$/i.test(String(value)) ? 'prodigy' : /^came$/i.test(String(value)) ? 'came' : 'adamw' }),
  write: ({ optimizer: { name } }) => (name.startsWith('adamw') ? 'adamW' : name),
}

const eightBit: FlagField = {
  read: (value) => (value ? { 'optimizer.name': 'adamw-8bit' } : {}),
  write: ({ optimizer: { name } }) => name === 'adamw-8bit',
}

const trackers: FlagField = {
  read: (value) => ({ reportTo: value === 'all' ? ['tensorboard', 'wandb'] : value === 'wandb' || value === 'tensorboard' ? [value] : [] }),
  write: ({ reportTo }) => (reportTo.length === 2 ? 'all' : reportTo[0]),
}

/** A pass count that only rules where the steps are left open. */
const epochs: FlagField = { read: (value) => ({ epochs: value }), write: ({ epochs: count }) => count ?? undefined }

/** Flags of the trainers of diffusion stages that have a field. Order matters where two flags meet in one field: the later one wins. */
const diffusionFlags: ReadonlyMap<string, FlagField> = new Map(
  Object.entries({
    model,
    ae: autoencoder,
    ae_path: address('vae.weights'),
    text_encoder_name: textEncoder,
    text_encoder_name_1: textEncoder,
    text_encoder_name_2: address('text.secondEncoder'),
    pretrained: address('init.weights'),
    model_base: baseOfAdapters,
    resume_from_checkpoint: address('init.continueFrom'),
    data: address('data.source'),
    data_path: address('data.source'),
    video_data: address('data.source'),
    video_data_path: address('data.source'),
    num_frames: same('shape.frames'),
    max_image_size: squareSize,
    max_height: same('shape.height'),
    max_width: same('shape.width'),
    max_hxw: same('shape.maxPixels'),
    min_hxw: same('shape.minPixels'),
    hw_stride: same('shape.multipleOf'),
    force_resolution: either('shape.fixed', true, false),
    train_fps: same('data.fps'),
    speed_factor: same('data.speed'),
    sample_rate: same('data.frameStride'),
    drop_short_ratio: same('data.dropShort'),
    use_image_num: same('data.imagesPerClip'),
    use_img_from_vid: either('data.imagesFromClips', true, false),
    group_frame: either('data.groupByShape', true, false),
    group_data: either('data.groupByShape', true, false),
    dataloader_num_workers: same('data.workers'),
    model_max_length: same('text.maxLength'),
    cfg: same('text.captionDropout'),
    default_text_ratio: same('text.defaultCaptionShare'),
    learning_rate: same('learningRate'),
    scale_lr: either('scaleLearningRate', true, false),
    max_train_steps: same('steps'),
    num_train_epochs: epochs,
    optimizer: optimizerName,
    use_8bit_adam: eightBit,
    adam_beta1: same('optimizer.beta1'),
    adam_beta2: same('optimizer.beta2'),
    adam_epsilon: same('optimizer.epsilon'),
    adam_weight_decay: same('optimizer.weightDecay'),
    lr_scheduler: named('schedule.name', {
      constant: 'constant',
      constant_with_warmup: 'constant-with-warmup',
      linear: 'linear',
      cosine: 'cosine',
      cosine_with_restarts: 'cosine-with-restarts',
      polynomial: 'polynomial',
      piecewise_constant: 'piecewise-constant',
    }),
    lr_warmup_steps: same('schedule.warmupSteps'),
    max_grad_norm: same('clip.norm'),
    ema_decay_grad_clipping: same('clip.emaDecay'),
    use_ema: either('ema.enabled', true, false),
    ema_decay: same('ema.decay'),
    ema_start_step: same('ema.startStep'),
    train_batch_size: same('batch.perDevice'),
    gradient_accumulation_steps: same('batch.accumulate'),
    prediction_type: prediction,
    v1_5_scheduler: betas('scaled-linear'),
    cogvideox_scheduler: betas('cogvideox'),
    rf_scheduler: flow,
    rescale_betas_zero_snr: either('objective.zeroTerminalSnr', true, false),
    snr_gamma: same('objective.snrGamma'),
    noise_offset: same('objective.noiseOffset'),
    weighting_scheme: weighting,
    logit_mean: same('objective.logitMean'),
    logit_std: same('objective.logitStd'),
    mode_scale: same('objective.modeScale'),
    add_noise_to_condition: either('objective.conditionNoise', true, false),
    use_rope: either('model.rope', true, false),
    interpolation_scale_t: listPlace('model.interpolationScale', 0),
    interpolation_scale_h: listPlace('model.interpolationScale', 1),
    interpolation_scale_w: listPlace('model.interpolationScale', 2),
    sparse1d: either('model.sparse', true, false),
    sparse_n: same('model.sparseN'),
    sp_size: same('parallel.sequence'),
    train_sp_batch_size: same('parallel.sequenceBatch'),
    mixed_precision: named('memory.precision', precisions, 'fp32'),
    vae_fp32: either('memory.vaePrecision', 'fp32', 'bf16'),
    allow_tf32: either('memory.tf32', true, false),
    gradient_checkpointing: either('memory.checkpointing', 'all', 'none'),
    enable_tiling: either('memory.vaeTiling', true, false),
    offload_ema: either('memory.offload', true, false),
    lora_rank: same('lora.rank'),
    rank: adapterRank,
    lora_alpha: same('lora.alpha'),
    seed: same('seed'),
    checkpointing_steps: same('checkpoint.everySteps'),
    checkpoints_total_limit: same('checkpoint.keepLast'),
    num_sampling_steps: same('samples.steps'),
    guidance_scale: same('samples.guidanceScale'),
    log_interval: same('logEvery'),
    report_to: trackers,
    output_dir: address('output'),
  } satisfies Record<string, FlagField>),
)

const vaeEpochs: FlagField = { read: (value) => ({ epochs: value }), write: (stage) => stage.epochs }

/** Flags of the trainers of video autoencoders that have a field. */
const vaeFlags: ReadonlyMap<string, FlagField> = new Map(
  Object.entries({
    pretrained_model_name_or_path: address('init.weights'),
    load_from_checkpoint: address('init.weights'),
    resume_from_checkpoint: address('init.continueFrom'),
    video_path: address('data.source'),
    resolution: squareSize,
    num_frames: same('shape.frames'),
    video_num_frames: same('shape.frames'),
    sample_rate: same('data.frameStride'),
    dataset_num_worker: same('data.workers'),
    num_workers: same('data.workers'),
    lr: same('learningRate'),
    epochs: vaeEpochs,
    max_steps: same('steps'),
    batch_size: same('batch.perDevice'),
    ema: either('ema.enabled', true, false),
    ema_decay: same('ema.decay'),
    disc_start: same('objective.discriminatorStart'),
    disc_weight: same('objective.adversarialWeight'),
    kl_weight: same('objective.klWeight'),
    perceptual_weight: same('objective.perceptualWeight'),
    loss_type: named('objective.reconstruction', { l1: 'l1', l2: 'l2' }),
    wavelet_weight: same('objective.waveletWeight'),
    freeze_encoder: either('vae.freezeEncoder', true, false),
    mix_precision: named('memory.precision', { bf16: 'bf16', fp16: 'fp16', fp32: 'fp32' }),
    precision: named('memory.precision', { bf16: 'bf16', '16': 'fp16', '32': 'fp32' }),
    seed: same('seed'),
    save_ckpt_step: same('checkpoint.everySteps'),
    save_steps: same('checkpoint.everySteps'),
    eval_steps: same('heldOut.everySteps'),
    log_steps: same('logEvery'),
    ckpt_dir: address('output'),
    output_dir: address('output'),
  } satisfies Record<string, FlagField>),
)

const noFields: ReadonlyMap<string, FlagField> = new Map()

/** Trainers of inpainting that have both flags read the longer one alone. */
const inpaintFlags: ReadonlyMap<string, FlagField> = new Map(
  [...diffusionFlags].map(([name, field]) => [name === 'pretrained' ? 'pretrained_transformer_model_path' : name, field]),
)

/** The flags of a trainer that have a field. Megatron's stand in tables of their own; a VQ-VAE has none. */
export function fieldsOf({ family, flags }: Trainer): ReadonlyMap<string, FlagField> {
  if (family === 'vae') return vaeFlags
  if (family === 'videogpt' || family === 'megatron') return noFields
  return 'pretrained_transformer_model_path' in flags ? inpaintFlags : diffusionFlags
}
