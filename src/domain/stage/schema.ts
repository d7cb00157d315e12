import { z } from 'zod'
import { field } from './metadata.ts'

/*
 * The one home of a stage's fields, defaults, units and meaning. Everything else derives from here: the diff, the JSON
 * Schema, the Python dataclasses, the documentation and the list of fields that may change while a run trains.
 * A stage is one phase of training with one resolved set of settings.
 */

const positiveInt = z.int().positive()
/** How often something stands in a model: far beyond any that was trained, small enough to be counted before it is built. */
const modelCount = z.int().min(1).max(1024)
const modelWidth = z.int().min(1).max(65_536)
const count = z.int().nonnegative()
const positive = z.number().positive()
const share = z.number().min(0).max(1)
const address = z.string().min(1).nullable()

export const stageKinds = ['vae', 'text-to-video', 'inpaint', 'class-to-video', 'lora'] as const

const init = z
  .strictObject({
    weights: field(address.default(null), {
      group: 'initial weights',
      kind: 'path',
      impact: 'resets-optimizer',
      upstream: ['pretrained', 'pretrained_model_name_or_path'],
      meaning:
        'where the trained model starts from: a folder, a file, a run address, `stage:NAME` of this recipe; null starts from random weights',
      why: 'each stage fine-tunes the one before it; without its weights the stage starts from nothing',
    }),
    use: field(z.enum(['ema', 'raw', 'best']).default('ema'), {
      group: 'initial weights',
      kind: 'choice',
      impact: 'resets-optimizer',
      meaning: 'which weights of the source are taken: its moving average, the raw ones, or those with the lowest held-out loss',
      why: 'the moving average usually has the lower loss; raw weights continue the optimiser’s path more closely',
    }),
    accept: field(z.array(z.string().regex(/^(missing|unexpected|reshaped):.+$/)).default([]), {
      group: 'initial weights',
      kind: 'set',
      impact: 'restart',
      meaning:
        'tensors that may differ from the model: `missing:GLOB`, `unexpected:GLOB`, `reshaped:GLOB`; anything else must match exactly',
      why: 'a tensor that is not loaded starts from random numbers',
    }),
    continueFrom: field(address.default(null), {
      group: 'initial weights',
      kind: 'path',
      impact: 'none',
      upstream: ['resume_from_checkpoint'],
      meaning: 'upstream only: the checkpoint its script resumes; `stagewright continue` needs no setting for this',
      why: 'a script that names both a checkpoint to resume and weights to start from leaves it to the output folder which one wins',
    }),
  })
  .prefault({})

const optimizer = z
  .strictObject({
    name: field(z.enum(['adamw', 'adamw-8bit', 'prodigy', 'came', 'sgd']).default('adamw'), {
      group: 'optimiser',
      kind: 'choice',
      impact: 'resets-optimizer',
      upstream: ['optimizer', 'use_8bit_adam'],
      meaning: 'the optimiser',
      why: 'another optimiser cannot take over the moments of the old one and needs its own learning rate',
    }),
    beta1: field(share.default(0.9), {
      group: 'optimiser',
      kind: 'additive',
      impact: 'restart',
      upstream: ['adam_beta1'],
      meaning: 'decay of the first moment per step',
    }),
    beta2: field(share.default(0.999), {
      group: 'optimiser',
      kind: 'additive',
      impact: 'restart',
      upstream: ['adam_beta2'],
      meaning: 'decay of the second moment per step',
    }),
    epsilon: field(positive.default(1e-8), {
      group: 'optimiser',
      kind: 'multiplicative',
      impact: 'restart',
      upstream: ['adam_epsilon'],
      meaning: 'added to the root of the second moment',
    }),
    weightDecay: field(z.number().nonnegative().default(1e-2), {
      group: 'optimiser',
      kind: 'multiplicative',
      impact: 'live',
      upstream: ['adam_weight_decay'],
      meaning: 'decoupled weight decay',
      why: 'pulls the weights away from the parent towards zero; with small data it also forgets',
    }),
  })
  .prefault({})

const schedule = z
  .strictObject({
    name: field(
      z
        .enum(['constant', 'constant-with-warmup', 'linear', 'cosine', 'cosine-with-restarts', 'polynomial', 'piecewise-constant', 'wsd'])
        .default('constant'),
      {
        group: 'optimiser',
        kind: 'choice',
        impact: 'restart',
        upstream: ['lr_scheduler'],
        meaning: 'course of the learning rate over the stage',
      },
    ),
    warmupSteps: field(count.default(0), {
      group: 'optimiser',
      kind: 'additive',
      unit: 'step',
      impact: 'restart',
      upstream: ['lr_warmup_steps'],
      meaning: 'steps over which the learning rate rises from zero',
      why: 'a fresh optimiser has no moments: warming up avoids a jump away from the parent’s weights',
    }),
    cycles: field(positive.default(1), {
      group: 'optimiser',
      kind: 'additive',
      impact: 'restart',
      upstream: ['lr_num_cycles'],
      meaning: 'cycles of cosine-with-restarts',
    }),
    power: field(positive.default(1), {
      group: 'optimiser',
      kind: 'additive',
      impact: 'restart',
      upstream: ['lr_power'],
      meaning: 'exponent of polynomial',
    }),
    decayShare: field(share.default(0.1), {
      group: 'optimiser',
      kind: 'additive',
      impact: 'restart',
      meaning: 'last share of the steps in which wsd decays',
    }),
    floorRatio: field(share.default(0), {
      group: 'optimiser',
      kind: 'additive',
      impact: 'restart',
      meaning: 'lowest learning rate as a share of the highest',
    }),
    horizonSteps: field(positiveInt.nullable().default(null), {
      group: 'optimiser',
      kind: 'additive',
      unit: 'step',
      impact: 'restart',
      meaning: 'steps the schedule is drawn for; null: the steps of the stage',
    }),
  })
  .prefault({})

const clip = z
  .strictObject({
    mode: field(z.enum(['none', 'norm', 'adaptive', 'zclip']).default('norm'), {
      group: 'optimiser',
      kind: 'choice',
      impact: 'live',
      meaning: 'how gradients are clipped: not, to a fixed norm, to upstream’s moving threshold, or by z-score',
    }),
    norm: field(positive.default(1), {
      group: 'optimiser',
      kind: 'multiplicative',
      impact: 'live',
      upstream: ['max_grad_norm', 'clip_grad'],
      meaning: 'largest norm of the gradient over all trainable tensors',
    }),
    emaDecay: field(share.default(0.99), {
      group: 'optimiser',
      kind: 'additive',
      impact: 'restart',
      upstream: ['clip_grad_ema_decay', 'ema_decay_grad_clipping'],
      meaning: 'decay of the moving mean and variance of the norm in the adaptive modes',
    }),
  })
  .prefault({})

const ema = z
  .strictObject({
    enabled: field(z.boolean().default(true), {
      group: 'optimiser',
      kind: 'switch',
      impact: 'restart',
      upstream: ['use_ema'],
      meaning: 'keep a moving average of the weights',
      why: 'the moving average is what the next stage usually starts from and what is sampled',
    }),
    decay: field(share.default(0.9999), {
      group: 'optimiser',
      kind: 'additive',
      impact: 'live',
      upstream: ['ema_decay'],
      meaning: 'largest decay per step',
      why: '1 / (1 − decay) steps are averaged; a short stage needs a smaller decay',
    }),
    startStep: field(count.default(0), {
      group: 'optimiser',
      kind: 'additive',
      unit: 'step',
      impact: 'restart',
      upstream: ['ema_start_step'],
      meaning: 'step after which the average starts',
    }),
    rule: field(z.enum(['upstream', 'warmup']).default('upstream'), {
      group: 'optimiser',
      kind: 'choice',
      impact: 'restart',
      meaning: 'upstream: min(decay, (1+s)/(10+s)) with s = step − start − 1; warmup: the same from s = step',
    }),
  })
  .prefault({})

const batch = z
  .strictObject({
    perDevice: field(positiveInt.default(1), {
      group: 'optimiser',
      kind: 'multiplicative',
      unit: 'clip',
      impact: 'restart',
      upstream: ['train_batch_size', 'batch_size', 'micro-batch-size'],
      meaning: 'clips per rank and backward pass (micro-batch)',
    }),
    accumulate: field(positiveInt.default(1), {
      group: 'optimiser',
      kind: 'multiplicative',
      impact: 'restart',
      upstream: ['gradient_accumulation_steps'],
      meaning: 'backward passes per optimizer step',
    }),
  })
  .prefault({})

const shape = z
  .strictObject({
    frames: field(positiveInt.default(29), {
      group: 'data',
      kind: 'additive',
      unit: 'frame',
      impact: 'stale-cache',
      upstream: ['num_frames', 'max_frame'],
      meaning: 'frames per clip in pixels, 1 + k × the time stride of the VAE',
      why: 'longer clips cost attention over more tokens; stages usually grow in length',
    }),
    height: field(positiveInt.default(352), {
      group: 'data',
      kind: 'multiplicative',
      unit: 'px',
      impact: 'stale-cache',
      upstream: ['max_height', 'max_image_size', 'resolution'],
      meaning: 'height of a clip in pixels',
    }),
    width: field(positiveInt.default(640), {
      group: 'data',
      kind: 'multiplicative',
      unit: 'px',
      impact: 'stale-cache',
      upstream: ['max_width', 'max_image_size', 'resolution'],
      meaning: 'width of a clip in pixels',
    }),
    fixed: field(z.boolean().default(true), {
      group: 'data',
      kind: 'switch',
      impact: 'stale-cache',
      upstream: ['force_resolution'],
      meaning: 'every clip is cropped and resized to height × width; off: clips keep their aspect inside the pixel limits',
    }),
    maxPixels: field(positiveInt.nullable().default(null), {
      group: 'data',
      kind: 'multiplicative',
      unit: 'px',
      impact: 'stale-cache',
      upstream: ['max_hxw'],
      meaning: 'largest area of a frame when not fixed',
    }),
    minPixels: field(positiveInt.nullable().default(null), {
      group: 'data',
      kind: 'multiplicative',
      unit: 'px',
      impact: 'stale-cache',
      upstream: ['min_hxw'],
      meaning: 'clips with a smaller area are dropped when not fixed; null: a quarter of the largest',
    }),
    multipleOf: field(positiveInt.default(32), {
      group: 'data',
      kind: 'additive',
      unit: 'px',
      impact: 'stale-cache',
      upstream: ['hw_stride'],
      meaning: 'height and width are floored to a multiple of this when not fixed',
    }),
  })
  .prefault({})

const data = z
  .strictObject({
    source: field(address.default(null), {
      group: 'data',
      kind: 'path',
      impact: 'restart',
      upstream: ['data', 'data_path', 'video_path', 'video_folder'],
      meaning: 'a folder of clips or a list file of `root,annotation` lines',
      why: 'other data is what a stage is for',
    }),
    fps: field(positive.default(24), {
      group: 'data',
      kind: 'multiplicative',
      unit: 'frame/s',
      impact: 'stale-cache',
      upstream: ['train_fps'],
      meaning: 'frame rate clips are resampled to',
      why: 'another rate changes how far things move between frames',
    }),
    speed: field(positive.default(1), {
      group: 'data',
      kind: 'multiplicative',
      impact: 'stale-cache',
      upstream: ['speed_factor'],
      meaning: 'playback speed of the clips',
    }),
    frameStride: field(positiveInt.default(1), {
      group: 'data',
      kind: 'additive',
      unit: 'frame',
      impact: 'stale-cache',
      upstream: ['sample_rate'],
      meaning: 'every n-th frame is taken where frames are not resampled to a rate',
    }),
    dropShort: field(share.default(1), {
      group: 'data',
      kind: 'additive',
      impact: 'restart',
      upstream: ['drop_short_ratio'],
      meaning: 'chance that a clip shorter than `shape.frames` is dropped; otherwise it is shortened',
    }),
    minFrames: field(positiveInt.default(1), {
      group: 'data',
      kind: 'additive',
      unit: 'frame',
      impact: 'restart',
      meaning: 'clips with fewer frames after resampling are dropped (upstream: 29, not a setting)',
    }),
    maxDurationRatio: field(positive.default(5), {
      group: 'data',
      kind: 'multiplicative',
      impact: 'restart',
      meaning: 'clips longer than this times the wanted duration are dropped',
    }),
    minBucketBatches: field(count.default(0), {
      group: 'data',
      kind: 'additive',
      impact: 'restart',
      meaning: 'buckets with fewer global batches are dropped (upstream: 4, not a setting)',
    }),
    crop: field(z.enum(['center', 'random', 'none']).default('center'), {
      group: 'data',
      kind: 'choice',
      impact: 'stale-cache',
      meaning: 'where a clip is cropped to its aspect',
    }),
    cropSize: field(positiveInt.nullable().default(null), {
      group: 'data',
      kind: 'multiplicative',
      unit: 'px',
      impact: 'stale-cache',
      meaning: 'VAE stages: random square crops of this side out of the resized clip; null trains on whole frames',
    }),
    flip: field(share.default(0), {
      group: 'data',
      kind: 'additive',
      impact: 'stale-cache',
      meaning: 'chance that a clip is mirrored left to right',
    }),
    imagesPerClip: field(count.default(0), {
      group: 'data',
      kind: 'additive',
      impact: 'restart',
      upstream: ['use_image_num'],
      meaning: 'images trained jointly with each clip',
      why: 'images keep the picture quality while motion is learnt',
    }),
    imagesFromClips: field(z.boolean().default(false), {
      group: 'data',
      kind: 'switch',
      impact: 'restart',
      upstream: ['use_img_from_vid'],
      meaning: 'take the joint images from the clips',
    }),
    groupByShape: field(z.boolean().default(true), {
      group: 'data',
      kind: 'switch',
      impact: 'restart',
      upstream: ['group_data', 'group_frame', 'group_resolution'],
      meaning: 'batches hold clips of one bucket only; without it shapes mix in one random order, which needs batch.perDevice 1',
    }),
    heldOutClips: field(count.default(0), {
      group: 'data',
      kind: 'additive',
      unit: 'clip',
      impact: 'restart',
      meaning: 'clips never trained on, for the held-out loss',
    }),
    seed: field(z.int().default(42), {
      group: 'data',
      kind: 'text',
      impact: 'restart',
      meaning: 'seed of the order of clips and of the held-out split',
    }),
    workers: field(count.default(2), {
      group: 'data',
      kind: 'additive',
      impact: 'restart',
      upstream: ['dataloader_num_workers', 'num_workers'],
      meaning: 'decoding processes per rank',
    }),
    decodeTimeoutSeconds: field(positive.default(60), {
      group: 'data',
      kind: 'multiplicative',
      unit: 's',
      impact: 'restart',
      meaning: 'time a clip may take to decode',
    }),
    maxSkippedShare: field(share.default(0.05), {
      group: 'data',
      kind: 'additive',
      impact: 'restart',
      meaning: 'share of clips that may fail to decode before the run stops',
    }),
    cache: field(z.enum(['off', 'latents', 'latents-and-text']).default('off'), {
      group: 'data',
      kind: 'choice',
      impact: 'restart',
      meaning: 'what is encoded once, kept on disk and read back instead of encoded in each step',
    }),
    cacheFolder: field(address.default(null), {
      group: 'data',
      kind: 'path',
      impact: 'none',
      meaning: 'folder the cache and the index of the clips lie in; null: `.stagewright` beside the clips',
    }),
    cacheVariants: field(positiveInt.default(1), {
      group: 'data',
      kind: 'additive',
      impact: 'stale-cache',
      meaning: 'views kept per clip in a cache: windows of long clips, random crops, mirrorings',
    }),
  })
  .prefault({})

const text = z
  .strictObject({
    encoder: field(z.string().min(1).default('bytes'), {
      group: 'data',
      kind: 'path',
      impact: 'stale-cache',
      upstream: ['text_encoder_name_1', 'text_encoder_name'],
      meaning: 'text encoder: a local folder, a hub name, or `bytes` for the small one that ships',
      why: 'the model has learnt to read this encoder’s states; another one is noise to it',
    }),
    secondEncoder: field(address.default(null), {
      group: 'data',
      kind: 'path',
      impact: 'stale-cache',
      upstream: ['text_encoder_name_2', 'text_encoder_name_3'],
      meaning: 'second text encoder for pooled states',
    }),
    maxLength: field(positiveInt.default(512), {
      group: 'data',
      kind: 'additive',
      unit: 'token',
      impact: 'stale-cache',
      upstream: ['model_max_length'],
      meaning: 'tokens a caption is cut or padded to',
    }),
    captionDropout: field(share.default(0.1), {
      group: 'data',
      kind: 'additive',
      impact: 'restart',
      upstream: ['cfg'],
      meaning: 'chance of an empty caption',
      why: 'guidance when sampling needs a model that also knows the empty caption',
    }),
    defaultCaptionShare: field(share.default(0), {
      group: 'data',
      kind: 'additive',
      impact: 'restart',
      upstream: ['default_text_ratio'],
      meaning: 'share of dropped captions that become a fixed sentence (inpaint)',
    }),
    clean: field(z.boolean().default(true), {
      group: 'data',
      kind: 'switch',
      impact: 'stale-cache',
      meaning: 'captions are cleaned as upstream does (lower case, no links, no markup)',
    }),
    aestheticPhrases: field(z.boolean().default(true), {
      group: 'data',
      kind: 'switch',
      impact: 'stale-cache',
      meaning: 'add a sentence on quality to captions of clips with an aesthetic score',
    }),
  })
  .prefault({})

const objective = z
  .strictObject({
    name: field(z.enum(['rectified-flow', 'epsilon', 'v-prediction', 'sample', 'reconstruction']).default('v-prediction'), {
      group: 'objective',
      kind: 'choice',
      impact: 'restart',
      upstream: ['prediction_type', 'rf_scheduler'],
      meaning: 'what the network predicts; `reconstruction` for a VAE',
      why: 'the loss should stay what the parent was trained with; a new one makes the weights predict something else',
    }),
    betas: field(z.enum(['linear', 'scaled-linear', 'cogvideox']).default('linear'), {
      group: 'objective',
      kind: 'choice',
      impact: 'restart',
      upstream: ['v1_5_scheduler', 'cogvideox_scheduler'],
      meaning: 'noise schedule of the DDPM objectives',
    }),
    zeroTerminalSnr: field(z.boolean().default(false), {
      group: 'objective',
      kind: 'switch',
      impact: 'restart',
      upstream: ['rescale_betas_zero_snr'],
      meaning: 'rescale the schedule so that the last step is pure noise',
    }),
    snrGamma: field(positive.nullable().default(null), {
      group: 'objective',
      kind: 'multiplicative',
      impact: 'restart',
      upstream: ['snr_gamma'],
      meaning: 'min-SNR weighting of the loss; null: none',
    }),
    noiseOffset: field(z.number().nonnegative().default(0), {
      group: 'objective',
      kind: 'additive',
      impact: 'restart',
      upstream: ['noise_offset'],
      meaning: 'strength of a constant offset per channel added to the noise',
    }),
    learnedVariance: field(z.boolean().default(false), {
      group: 'objective',
      kind: 'switch',
      impact: 'breaks-weights',
      meaning: 'the model also predicts the variance (v1.0, v1.1)',
    }),
    times: field(z.enum(['uniform', 'logit-normal', 'mode']).default('uniform'), {
      group: 'objective',
      kind: 'choice',
      impact: 'restart',
      upstream: ['weighting_scheme'],
      meaning: 'distribution of t in rectified flow',
    }),
    weighting: field(z.enum(['none', 'sigma-sqrt', 'cosmap']).default('none'), {
      group: 'objective',
      kind: 'choice',
      impact: 'restart',
      upstream: ['weighting_scheme'],
      meaning: 'weight of the loss over t in rectified flow',
    }),
    logitMean: field(z.number().default(0), {
      group: 'objective',
      kind: 'additive',
      impact: 'restart',
      upstream: ['logit_mean'],
      meaning: 'mean of the logit-normal times',
    }),
    logitStd: field(positive.default(1), {
      group: 'objective',
      kind: 'multiplicative',
      impact: 'restart',
      upstream: ['logit_std'],
      meaning: 'standard deviation of the logit-normal times',
    }),
    modeScale: field(z.number().default(1.29), {
      group: 'objective',
      kind: 'additive',
      impact: 'restart',
      upstream: ['mode_scale'],
      meaning: 'scale of the mode times',
    }),
    flowShift: field(positive.default(1), {
      group: 'objective',
      kind: 'multiplicative',
      impact: 'restart',
      meaning: 'shift of the rectified-flow times towards noise',
    }),
    dynamicShift: field(z.boolean().default(false), {
      group: 'objective',
      kind: 'switch',
      impact: 'restart',
      meaning: 'shift times by the number of tokens, as v1.5',
    }),
    stratifiedTimes: field(z.boolean().default(true), {
      group: 'objective',
      kind: 'switch',
      impact: 'restart',
      meaning: 'each data-parallel rank draws times from its own stratum',
    }),
    reconstruction: field(z.enum(['l1', 'l2']).default('l1'), {
      group: 'objective',
      kind: 'choice',
      impact: 'restart',
      upstream: ['loss_type'],
      meaning: 'VAE: distance between clip and reconstruction',
    }),
    klWeight: field(z.number().nonnegative().default(1e-6), {
      group: 'objective',
      kind: 'multiplicative',
      impact: 'live',
      upstream: ['kl_weight'],
      meaning: 'VAE: weight of the KL divergence',
    }),
    perceptualWeight: field(z.number().nonnegative().default(0), {
      group: 'objective',
      kind: 'multiplicative',
      impact: 'live',
      upstream: ['perceptual_weight'],
      meaning: 'VAE: weight of LPIPS; needs `lpipsWeights`',
    }),
    lpipsWeights: field(address.default(null), {
      group: 'objective',
      kind: 'path',
      impact: 'restart',
      meaning: 'VAE: local file with the VGG and linear weights of LPIPS',
    }),
    waveletWeight: field(z.number().nonnegative().default(0.1), {
      group: 'objective',
      kind: 'multiplicative',
      impact: 'live',
      upstream: ['wavelet_weight'],
      meaning: 'VAE: weight of the wavelet loss',
    }),
    adversarialWeight: field(z.number().nonnegative().default(0), {
      group: 'objective',
      kind: 'multiplicative',
      impact: 'live',
      upstream: ['disc_weight'],
      meaning: 'VAE: weight of the discriminator’s term; 0 trains without one',
    }),
    discriminatorStart: field(count.default(0), {
      group: 'objective',
      kind: 'additive',
      unit: 'step',
      impact: 'restart',
      upstream: ['disc_start'],
      meaning: 'VAE: step at which the discriminator joins',
    }),
    discriminatorWarmup: field(count.default(0), {
      group: 'objective',
      kind: 'additive',
      unit: 'step',
      impact: 'restart',
      meaning: 'VAE: first steps of the game in which the discriminator trains alone and the autoencoder waits',
      why: 'released autoencoders come without their discriminator; a new one knows nothing yet, and its gradients would harm what they know',
    }),
    discriminatorLearningRate: field(positive.default(1e-5), {
      group: 'objective',
      kind: 'multiplicative',
      impact: 'live',
      meaning: 'VAE: learning rate of the discriminator',
    }),
    maskRatios: field(
      z
        .record(z.enum(['t2iv', 'i2v', 'transition', 'continuation', 'clear', 'random_temporal']), z.number().nonnegative())
        .default({ t2iv: 1, i2v: 8, transition: 8, continuation: 2, clear: 0, random_temporal: 1 }),
      {
        group: 'objective',
        kind: 'set',
        impact: 'restart',
        upstream: ['mask_config'],
        meaning: 'inpaint: how often each kind of mask is drawn',
      },
    ),
    minClear: field(share.default(0), {
      group: 'objective',
      kind: 'additive',
      impact: 'restart',
      meaning: 'inpaint: smallest share of known frames in continuation and random masks',
    }),
    maxClear: field(share.default(1), {
      group: 'objective',
      kind: 'additive',
      impact: 'restart',
      meaning: 'inpaint: largest share of known frames in continuation and random masks',
    }),
    conditionNoise: field(z.boolean().default(false), {
      group: 'objective',
      kind: 'switch',
      impact: 'restart',
      upstream: ['add_noise_to_condition'],
      meaning: 'inpaint: add noise to the known frames',
    }),
  })
  .prefault({})

const phase = z.strictObject({
  at: z.union([count, z.string().regex(/^(\d+(\.\d+)?%|plateau)$/)]),
  trainable: z.array(z.string().min(1)).min(1),
  rewarmSteps: count.default(0),
})

const lora = z
  .strictObject({
    rank: field(positiveInt.nullable().default(null), {
      group: 'trainable parameters',
      kind: 'multiplicative',
      impact: 'breaks-weights',
      upstream: ['lora_rank', 'rank'],
      meaning: 'rank of low-rank adapters beside the frozen weights; null trains the weights themselves',
      why: 'adapters need little memory and keep the parent whole; they learn less than training all weights',
    }),
    alpha: field(positive.default(16), {
      group: 'trainable parameters',
      kind: 'multiplicative',
      impact: 'restart',
      upstream: ['lora_alpha'],
      meaning: 'scale of the adapters, divided by the rank',
    }),
    dropout: field(share.default(0), {
      group: 'trainable parameters',
      kind: 'additive',
      impact: 'restart',
      meaning: 'dropout inside the adapters',
    }),
    targets: field(z.array(z.string()).default(['to_q', 'to_k', 'to_v', 'to_out.0']), {
      group: 'trainable parameters',
      kind: 'set',
      impact: 'breaks-weights',
      meaning: 'endings of the names of the linear layers that get adapters',
    }),
  })
  .prefault({})

const model = z
  .strictObject({
    class: field(
      z
        .enum([
          'OpenSoraT2V_v1_3',
          'OpenSoraInpaint_v1_3',
          'OpenSoraT2V',
          'OpenSoraInpaint',
          'LatteT2V',
          'SparseUMMDiT',
          'Latte',
          'DiT',
          'UDiT',
        ])
        .default('OpenSoraT2V_v1_3'),
      {
        group: 'model',
        kind: 'choice',
        impact: 'breaks-weights',
        upstream: ['model'],
        meaning: 'the diffusion transformer, by upstream’s class name',
      },
    ),
    variant: field(z.string().nullable().default(null), {
      group: 'model',
      kind: 'choice',
      impact: 'breaks-weights',
      upstream: ['model'],
      meaning: 'upstream’s name for the size and patch, such as `2B/122`; the numbers below decide',
    }),
    layers: field(modelCount.default(32), { group: 'model', kind: 'additive', impact: 'breaks-weights', meaning: 'transformer blocks' }),
    heads: field(modelCount.default(24), { group: 'model', kind: 'additive', impact: 'breaks-weights', meaning: 'attention heads' }),
    headDim: field(modelCount.default(96), {
      group: 'model',
      kind: 'additive',
      impact: 'breaks-weights',
      meaning: 'channels per attention head',
    }),
    patch: field(z.array(modelCount).length(3).default([1, 2, 2]), {
      group: 'model',
      kind: 'sequence',
      impact: 'breaks-weights',
      meaning: 'latent cells per token: time, height, width',
    }),
    textChannels: field(modelWidth.default(4096), {
      group: 'model',
      kind: 'additive',
      impact: 'breaks-weights',
      meaning: 'channels of the text states',
    }),
    rope: field(z.boolean().default(true), {
      group: 'model',
      kind: 'switch',
      impact: 'breaks-weights',
      upstream: ['use_rope'],
      meaning: 'rotary positions; off: absolute sine-cosine positions',
    }),
    interpolationScale: field(z.array(positive).length(3).default([1, 1, 1]), {
      group: 'model',
      kind: 'sequence',
      impact: 'restart',
      upstream: ['interpolation_scale_t', 'interpolation_scale_h', 'interpolation_scale_w'],
      meaning: 'positions are divided by these: time, height, width',
    }),
    sparse: field(z.boolean().default(true), {
      group: 'model',
      kind: 'switch',
      impact: 'breaks-weights',
      upstream: ['sparse1d'],
      meaning: 'skiparse attention in the sparse blocks',
      why: 'the weights are bound to their sparsity; changing it needs a stage of its own',
    }),
    sparseN: field(modelCount.default(4), {
      group: 'model',
      kind: 'multiplicative',
      impact: 'breaks-weights',
      upstream: ['sparse_n'],
      meaning: 'sub-sequences of skiparse attention',
      why: 'the weights are bound to their sparsity; changing it needs a stage of its own',
    }),
    sparseBlocks: field(z.array(count).nullable().default(null), {
      group: 'model',
      kind: 'set',
      impact: 'breaks-weights',
      meaning: 'which blocks are sparse; null: upstream’s 2 to 29',
    }),
    stageLayers: field(z.array(modelCount).nullable().default(null), {
      group: 'model',
      kind: 'sequence',
      impact: 'breaks-weights',
      meaning: 'v1.5: blocks per U-shaped stage',
    }),
    stageSparseN: field(z.array(modelCount).nullable().default(null), {
      group: 'model',
      kind: 'sequence',
      impact: 'breaks-weights',
      meaning: 'v1.5: sub-sequences per U-shaped stage',
    }),
  })
  .prefault({})

const vae = z
  .strictObject({
    class: field(z.enum(['WFVAEModel', 'CausalVAEModel', 'image']).default('WFVAEModel'), {
      group: 'model',
      kind: 'choice',
      impact: 'stale-cache',
      upstream: ['ae'],
      meaning: 'the video autoencoder, by upstream’s class name; `image`: an image autoencoder per frame',
    }),
    name: field(z.string().nullable().default(null), {
      group: 'model',
      kind: 'choice',
      impact: 'none',
      upstream: ['ae'],
      meaning: 'upstream’s registry name, such as `WFVAEModel_D8_4x8x8`; the numbers below decide',
    }),
    weights: field(address.default(null), {
      group: 'initial weights',
      kind: 'path',
      impact: 'stale-cache',
      upstream: ['ae_path', 'pretrained_model_name_or_path'],
      meaning: 'weights of the autoencoder of a diffusion stage: a folder, a run address, `stage:NAME`',
      why: 'latents of another autoencoder mean nothing to the model',
    }),
    stride: field(z.array(modelCount).length(2).default([4, 8]), {
      group: 'model',
      kind: 'sequence',
      impact: 'stale-cache',
      meaning: 'pixels per latent cell: time, space',
    }),
    latentChannels: field(modelWidth.default(8), {
      group: 'model',
      kind: 'additive',
      impact: 'breaks-weights',
      meaning: 'channels of a latent',
    }),
    baseChannels: field(modelWidth.default(128), {
      group: 'model',
      kind: 'multiplicative',
      impact: 'breaks-weights',
      meaning: 'width of the first level',
    }),
    encoderFlowChannels: field(modelWidth.default(64), {
      group: 'model',
      kind: 'multiplicative',
      impact: 'breaks-weights',
      upstream: ['encoder_energy_flow_hidden_size'],
      meaning: 'width of the encoder’s wavelet path',
    }),
    decoderFlowChannels: field(modelWidth.default(128), {
      group: 'model',
      kind: 'multiplicative',
      impact: 'breaks-weights',
      upstream: ['decoder_energy_flow_hidden_size'],
      meaning: 'width of the decoder’s wavelet path',
    }),
    residualBlocks: field(modelCount.default(2), {
      group: 'model',
      kind: 'additive',
      impact: 'breaks-weights',
      meaning: 'residual blocks per level',
    }),
    connectLayers: field(modelCount.default(2), {
      group: 'model',
      kind: 'additive',
      impact: 'breaks-weights',
      upstream: ['connect_res_layer_num'],
      meaning: 'residual blocks where the wavelet path joins',
    }),
    attention: field(z.boolean().default(true), {
      group: 'model',
      kind: 'switch',
      impact: 'breaks-weights',
      meaning: 'attention in the middle of encoder and decoder',
    }),
    norm: field(z.enum(['layernorm', 'groupnorm']).default('layernorm'), {
      group: 'model',
      kind: 'choice',
      impact: 'breaks-weights',
      meaning: 'normalisation; groupnorm makes chunked results inexact',
    }),
    freezeEncoder: field(z.boolean().default(false), {
      group: 'trainable parameters',
      kind: 'switch',
      impact: 'restart',
      upstream: ['freeze_encoder'],
      meaning: 'VAE stages: train the decoder only',
      why: 'latents stay what diffusion stages and caches were built on',
    }),
  })
  .prefault({})

const parallel = z
  .strictObject({
    nodes: field(positiveInt.default(1), {
      group: 'memory and parallelism',
      kind: 'multiplicative',
      impact: 'restart',
      upstream: ['num_machines', 'nnodes'],
      meaning: 'machines',
    }),
    processes: field(positiveInt.default(1), {
      group: 'memory and parallelism',
      kind: 'multiplicative',
      impact: 'restart',
      upstream: ['num_processes', 'nproc_per_node'],
      meaning: 'ranks per machine, one per device',
    }),
    strategy: field(z.enum(['ddp', 'fsdp2', 'hsdp']).default('ddp'), {
      group: 'memory and parallelism',
      kind: 'choice',
      impact: 'restart',
      meaning: 'what ranks share: nothing (ddp), the weights (fsdp2), the weights within a machine (hsdp)',
    }),
    zeroStage: field(z.int().min(0).max(3).nullable().default(null), {
      group: 'memory and parallelism',
      kind: 'additive',
      impact: 'restart',
      meaning: 'upstream only: DeepSpeed’s ZeRO stage',
    }),
    sequence: field(positiveInt.default(1), {
      group: 'memory and parallelism',
      kind: 'multiplicative',
      impact: 'restart',
      upstream: ['sp_size'],
      meaning: 'ranks that share one clip (sequence parallelism)',
      why: 'ranks that share a clip do not add clips to the global batch',
    }),
    sequenceBatch: field(positiveInt.default(1), {
      group: 'memory and parallelism',
      kind: 'multiplicative',
      impact: 'restart',
      upstream: ['train_sp_batch_size'],
      meaning: 'clips a sequence-parallel group takes per pass',
    }),
    tensor: field(positiveInt.default(1), {
      group: 'memory and parallelism',
      kind: 'multiplicative',
      impact: 'restart',
      upstream: ['tensor-model-parallel-size'],
      meaning: 'upstream v1.5 only: ranks that share one matrix',
    }),
  })
  .prefault({})

const memory = z
  .strictObject({
    precision: field(z.enum(['fp32', 'bf16', 'fp16']).default('bf16'), {
      group: 'memory and parallelism',
      kind: 'choice',
      impact: 'restart',
      upstream: ['mixed_precision'],
      meaning: 'arithmetic of the trained model',
    }),
    vaePrecision: field(z.enum(['fp32', 'bf16', 'fp16']).default('fp32'), {
      group: 'memory and parallelism',
      kind: 'choice',
      impact: 'stale-cache',
      upstream: ['vae_fp32'],
      meaning: 'arithmetic of the autoencoder in diffusion stages',
    }),
    tf32: field(z.boolean().default(false), {
      group: 'memory and parallelism',
      kind: 'switch',
      impact: 'restart',
      upstream: ['allow_tf32'],
      meaning: 'TF32 matrix products on GPUs that have them',
    }),
    checkpointing: field(z.enum(['none', 'selective', 'all']).default('none'), {
      group: 'memory and parallelism',
      kind: 'choice',
      impact: 'restart',
      upstream: ['gradient_checkpointing'],
      meaning: 'activations computed again in the backward pass',
    }),
    vaeTiling: field(z.boolean().default(false), {
      group: 'memory and parallelism',
      kind: 'switch',
      impact: 'restart',
      upstream: ['enable_tiling'],
      meaning: 'encode and decode clips in chunks of time',
    }),
    offload: field(z.boolean().default(false), {
      group: 'memory and parallelism',
      kind: 'switch',
      impact: 'restart',
      upstream: ['offload_ema', 'extra_save_mem'],
      meaning: 'keep optimiser state and EMA in host memory',
    }),
    compile: field(z.enum(['none', 'blocks', 'full']).default('none'), {
      group: 'memory and parallelism',
      kind: 'choice',
      impact: 'restart',
      meaning: 'what torch.compile fuses',
    }),
    device: field(z.enum(['auto', 'cpu', 'cuda']).default('auto'), {
      group: 'memory and parallelism',
      kind: 'choice',
      impact: 'restart',
      meaning: 'where the trainer computes; auto: the GPU where there is one',
    }),
    threads: field(positiveInt.nullable().default(null), {
      group: 'memory and parallelism',
      kind: 'additive',
      impact: 'restart',
      meaning: 'CPU threads per rank; null: the cores divided by the ranks',
    }),
  })
  .prefault({})

const compat = z
  .strictObject({
    haarConstant: field(z.enum(['exact', 'upstream']).default('upstream'), {
      group: 'model',
      kind: 'choice',
      impact: 'stale-cache',
      meaning: 'constant of the 3-D Haar transform: 1/(2√2), or upstream’s 0.3536, which its published weights were trained with',
    }),
    ropePrecision: field(z.enum(['fp32', 'model']).default('fp32'), {
      group: 'model',
      kind: 'choice',
      impact: 'restart',
      meaning: 'precision of rotary angles; `model` rounds them as upstream’s bf16 training did',
    }),
    noisePrecision: field(z.enum(['fp32', 'model']).default('fp32'), {
      group: 'objective',
      kind: 'choice',
      impact: 'restart',
      meaning: 'precision of the noise schedule; `model` rounds it as upstream’s bf16 training did',
    }),
    minSnr: field(z.enum(['mended', 'upstream']).default('mended'), {
      group: 'objective',
      kind: 'choice',
      impact: 'restart',
      meaning: 'min-SNR weights: with a floor, or upstream’s, which vanish at the last step',
    }),
    times: field(z.enum(['mended', 'upstream']).default('mended'), {
      group: 'objective',
      kind: 'choice',
      impact: 'restart',
      meaning: 'strata of times over data-parallel ranks, or over all ranks as upstream',
    }),
    captions: field(z.enum(['mended', 'upstream']).default('mended'), {
      group: 'data',
      kind: 'choice',
      impact: 'stale-cache',
      meaning: 'caption lists are cleaned one by one, or as their printed form as upstream',
    }),
  })
  .prefault({})

/** Thresholds of the rules that watch a run. Null switches a rule off. `docs/incidents.md` has what each was measured to find. */
const watch = z
  .strictObject({
    warmupSteps: field(positiveInt.default(50), {
      group: 'bookkeeping',
      kind: 'additive',
      unit: 'step',
      impact: 'live',
      meaning: 'steps at the start and after a phase change that rules learn from before they judge spikes',
    }),
    quietSteps: field(count.default(20), {
      group: 'bookkeeping',
      kind: 'additive',
      unit: 'step',
      impact: 'live',
      meaning: 'steps after a changed learning rate, a continue or a roll-back in which only a lasting spike counts',
    }),
    lossSpike: field(positive.nullable().default(7), {
      group: 'bookkeeping',
      kind: 'multiplicative',
      impact: 'live',
      meaning: 'deviations above its usual at which the loss, normalised by time bin, is a spike; half of it where it lasts',
    }),
    gradientSpike: field(positive.nullable().default(7), {
      group: 'bookkeeping',
      kind: 'multiplicative',
      impact: 'live',
      meaning: 'deviations above its usual at which the gradient norm is a spike; half of it where it lasts',
    }),
    spikeRatio: field(positive.default(2.5), {
      group: 'bookkeeping',
      kind: 'multiplicative',
      impact: 'live',
      meaning: 'least factor above its usual for a spike, however small the deviations are',
    }),
    blockSteps: field(positiveInt.default(50), {
      group: 'bookkeeping',
      kind: 'multiplicative',
      unit: 'step',
      impact: 'live',
      meaning: 'steps whose mean is one level: of the loss, of step time, of memory',
    }),
    divergence: field(positive.nullable().default(1.25), {
      group: 'bookkeeping',
      kind: 'multiplicative',
      impact: 'live',
      meaning: 'factor above its lowest level at which the loss diverges, over two blocks and beyond its noise',
    }),
    plateau: field(positiveInt.nullable().default(8), {
      group: 'bookkeeping',
      kind: 'additive',
      impact: 'live',
      meaning: 'held-out measurements without a gain of half a percent that make a plateau',
    }),
    deadGradient: field(positive.nullable().default(0.001), {
      group: 'bookkeeping',
      kind: 'multiplicative',
      impact: 'live',
      meaning: 'share of its usual under which the gradient norm is dead, over five steps',
    }),
    discriminatorSteps: field(positiveInt.nullable().default(100), {
      group: 'bookkeeping',
      kind: 'multiplicative',
      unit: 'step',
      impact: 'live',
      meaning: 'discriminator steps over which it must neither always win nor see no difference',
    }),
    slowSteps: field(positive.nullable().default(2), {
      group: 'bookkeeping',
      kind: 'multiplicative',
      impact: 'live',
      meaning: 'factor above its usual at which step time is slow, over two blocks',
    }),
    memoryGrowth: field(positive.nullable().default(0.2), {
      group: 'bookkeeping',
      kind: 'multiplicative',
      impact: 'live',
      meaning: 'share by which memory may grow without a pause over five blocks or more',
    }),
    stuckSeconds: field(positive.nullable().default(600), {
      group: 'bookkeeping',
      kind: 'multiplicative',
      unit: 's',
      impact: 'live',
      meaning: 'longest time without any progress of a rank before the stacks of all ranks are dumped',
    }),
  })
  .prefault({})

const incidents = z
  .strictObject({
    policy: field(z.enum(['stop', 'skip', 'rollback']).default('stop'), {
      group: 'bookkeeping',
      kind: 'choice',
      impact: 'live',
      meaning: 'what a non-finite loss or gradient leads to',
    }),
    onSpike: field(z.enum(['note', 'clip', 'skip', 'rollback', 'stop']).default('note'), {
      group: 'bookkeeping',
      kind: 'choice',
      impact: 'live',
      meaning:
        'what a spike or a divergence leads to; `clip` cuts the gradient of a spike to its usual norm; a divergence cannot be skipped or clipped',
    }),
    maxRetries: field(count.default(3), {
      group: 'bookkeeping',
      kind: 'additive',
      impact: 'live',
      meaning: 'skips, clips and roll-backs before the run stops',
    }),
    forgetSteps: field(positiveInt.nullable().default(1000), {
      group: 'bookkeeping',
      kind: 'multiplicative',
      unit: 'step',
      impact: 'live',
      meaning: 'steps without an incident after which retries count from 0 again; null never forgets',
    }),
    learningRateCut: field(share.default(0.5), {
      group: 'bookkeeping',
      kind: 'multiplicative',
      impact: 'live',
      meaning: 'factor on the learning rate after a roll-back',
    }),
    watch,
  })
  .prefault({})

const checkpoint = z
  .strictObject({
    everySteps: field(positiveInt.default(500), {
      group: 'bookkeeping',
      kind: 'multiplicative',
      unit: 'step',
      impact: 'live',
      upstream: ['checkpointing_steps', 'save_ckpt_step', 'save-interval'],
      meaning: 'steps between checkpoints',
    }),
    everyMinutes: field(positive.nullable().default(null), {
      group: 'bookkeeping',
      kind: 'multiplicative',
      unit: 'min',
      impact: 'live',
      meaning: 'minutes between checkpoints, besides the steps',
    }),
    keepLast: field(positiveInt.nullable().default(2), {
      group: 'bookkeeping',
      kind: 'additive',
      impact: 'live',
      upstream: ['checkpoints_total_limit'],
      meaning: 'newest checkpoints that are kept; null keeps all',
    }),
    keepBest: field(count.default(1), {
      group: 'bookkeeping',
      kind: 'additive',
      impact: 'live',
      meaning: 'checkpoints with the lowest held-out loss that are kept',
    }),
    keepEverySteps: field(positiveInt.nullable().default(null), {
      group: 'bookkeeping',
      kind: 'multiplicative',
      unit: 'step',
      impact: 'live',
      added: '2026-11-25',
      meaning: 'checkpoints whose step is a multiple of this are kept for good',
    }),
    keepEnds: field(z.boolean().default(false), {
      group: 'bookkeeping',
      kind: 'switch',
      impact: 'live',
      added: '2026-11-25',
      meaning: 'a checkpoint is written where a phase ends and kept for good, as that of the end of the stage is',
    }),
  })
  .prefault({})

const heldOut = z
  .strictObject({
    everySteps: field(positiveInt.nullable().default(null), {
      group: 'bookkeeping',
      kind: 'multiplicative',
      unit: 'step',
      impact: 'live',
      meaning: 'steps between measurements of the held-out loss; null: at the start and the end only',
    }),
    draws: field(positiveInt.default(4), {
      group: 'bookkeeping',
      kind: 'multiplicative',
      impact: 'restart',
      meaning: 'fixed noises and times per held-out clip',
    }),
    patience: field(positiveInt.nullable().default(null), {
      group: 'bookkeeping',
      kind: 'additive',
      impact: 'live',
      meaning: 'measurements without improvement after which the stage ends; null: never',
    }),
  })
  .prefault({})

const samples = z
  .strictObject({
    everySteps: field(positiveInt.nullable().default(null), {
      group: 'bookkeeping',
      kind: 'multiplicative',
      unit: 'step',
      impact: 'live',
      meaning: 'steps between sample videos; null: at the end only, where there are prompts',
    }),
    prompts: field(z.array(z.string()).default([]), {
      group: 'bookkeeping',
      kind: 'sequence',
      impact: 'restart',
      meaning: 'captions that are sampled',
    }),
    steps: field(positiveInt.default(30), {
      group: 'bookkeeping',
      kind: 'multiplicative',
      impact: 'live',
      upstream: ['num_sampling_steps'],
      meaning: 'sampler steps',
    }),
    guidanceScale: field(z.number().nonnegative().default(4.5), {
      group: 'bookkeeping',
      kind: 'additive',
      impact: 'live',
      upstream: ['guidance_scale'],
      meaning: 'strength of classifier-free guidance',
    }),
    sampler: field(z.enum(['auto', 'ddim', 'euler-ancestral', 'flow-euler']).default('auto'), {
      group: 'bookkeeping',
      kind: 'choice',
      impact: 'live',
      meaning: 'sampler; auto: ddim or flow-euler by the objective',
    }),
    guidanceRescale: field(share.nullable().default(null), {
      group: 'bookkeeping',
      kind: 'additive',
      impact: 'live',
      meaning:
        'share of the guided prediction that is scaled back to the spread of the prompted one; null: as upstream, 0.7 for v1.5, else 0',
    }),
    flowShift: field(positive.nullable().default(null), {
      group: 'bookkeeping',
      kind: 'multiplicative',
      impact: 'live',
      meaning: 'rectified flow: above 1 spends more sampler steps near noise; null: as upstream, 7 for v1.5, else 1',
    }),
    weights: field(z.enum(['ema', 'raw', 'both']).default('ema'), {
      group: 'bookkeeping',
      kind: 'choice',
      impact: 'live',
      meaning: 'weights that are sampled: the moving average where one is kept, the raw ones, or each in turn',
    }),
    task: field(z.enum(['auto', 't2v', 'i2v', 'transition', 'continuation']).default('auto'), {
      group: 'bookkeeping',
      kind: 'choice',
      impact: 'live',
      meaning:
        'inpaint: what the samples know: nothing, the first frame, first and last, or the first quarter; auto: the mask trained most',
    }),
    from: field(z.array(z.string().min(1)).default([]), {
      group: 'bookkeeping',
      kind: 'sequence',
      impact: 'restart',
      meaning: 'inpaint: image or clip each prompt goes on from, `FIRST,LAST` for two images of a transition; empty: held-out clips',
    }),
    fps: field(positive.default(8), {
      group: 'bookkeeping',
      kind: 'multiplicative',
      unit: 'frame/s',
      impact: 'none',
      meaning: 'frame rate of the written files',
    }),
  })
  .prefault({})

export const stageSchema = z.strictObject({
  name: field(z.string().regex(/^[a-z0-9][a-z0-9._-]{0,63}$/i, 'letters, digits, dot, dash and underscore, at most 64'), {
    group: 'bookkeeping',
    kind: 'text',
    impact: 'none',
    meaning: 'name of the stage within its recipe',
  }),
  kind: field(z.enum(stageKinds).default('text-to-video'), {
    group: 'objective',
    kind: 'choice',
    impact: 'breaks-weights',
    meaning: 'what is trained',
  }),
  notes: field(z.string().default(''), { group: 'bookkeeping', kind: 'text', impact: 'none', meaning: 'remarks' }),
  init,
  learningRate: field(positive.default(1e-4), {
    group: 'optimiser',
    kind: 'multiplicative',
    impact: 'live',
    upstream: ['learning_rate', 'lr'],
    meaning: 'highest learning rate of the stage',
    why: 'a stage that fine-tunes another takes smaller steps, or it leaves what was learnt',
  }),
  layerDecay: field(positive.max(1).default(1), {
    group: 'optimiser',
    kind: 'additive',
    impact: 'restart',
    meaning: 'factor on the learning rate per block downwards from the last',
  }),
  learningRateRatios: field(z.record(z.string(), z.number().nonnegative()).default({}), {
    group: 'optimiser',
    kind: 'set',
    impact: 'live',
    meaning: 'factors on the learning rate by group of parameters',
  }),
  scaleLearningRate: field(z.boolean().default(false), {
    group: 'optimiser',
    kind: 'switch',
    impact: 'restart',
    upstream: ['scale_lr'],
    meaning: 'upstream only: multiply the learning rate by the global batch',
  }),
  steps: field(positiveInt.default(1000), {
    group: 'optimiser',
    kind: 'multiplicative',
    unit: 'step',
    impact: 'live',
    upstream: ['max_train_steps', 'max_steps', 'train-iters'],
    meaning: 'optimizer steps of the stage',
  }),
  epochs: field(positiveInt.nullable().default(null), {
    group: 'optimiser',
    kind: 'additive',
    impact: 'restart',
    upstream: ['num_train_epochs', 'epochs'],
    meaning: 'passes over the data after which the stage ends; null: only the steps count',
  }),
  optimizer,
  schedule,
  clip,
  ema,
  batch,
  shape,
  data,
  text,
  objective,
  trainable: field(z.array(z.string().min(1)).min(1).default(['all']), {
    group: 'trainable parameters',
    kind: 'set',
    impact: 'restart',
    meaning:
      'what is trained: `all`, parts (`blocks[4:8]`, `attention.self`, `embeddings`, `norms`, `vae.encoder`, `lora`), name patterns; `-` before one takes it away; with `lora.rank` the adapters alone are chosen from',
    why: 'freezing the lower blocks keeps what the parent learnt when data is little',
  }),
  phases: field(z.array(phase).default([]), {
    group: 'trainable parameters',
    kind: 'sequence',
    impact: 'restart',
    meaning: 'changes of `trainable` at a step, a share of the stage, or when the held-out loss has levelled off',
  }),
  lora,
  model,
  vae,
  parallel,
  memory,
  compat,
  seed: field(z.int().nullable().default(0), {
    group: 'bookkeeping',
    kind: 'text',
    impact: 'restart',
    upstream: ['seed'],
    meaning: 'seed of weights, noise, times and caption dropout',
  }),
  incidents,
  checkpoint,
  heldOut,
  samples,
  logEvery: field(positiveInt.default(1), {
    group: 'bookkeeping',
    kind: 'multiplicative',
    unit: 'step',
    impact: 'live',
    upstream: ['log_interval', 'log_steps'],
    meaning: 'steps between lines of the journal',
  }),
  reportTo: field(z.array(z.enum(['tensorboard', 'wandb'])).default([]), {
    group: 'bookkeeping',
    kind: 'set',
    impact: 'restart',
    upstream: ['report_to'],
    meaning: 'trackers that are written beside the journal',
  }),
  output: field(z.string().nullable().default(null), {
    group: 'bookkeeping',
    kind: 'path',
    impact: 'none',
    upstream: ['output_dir', 'ckpt_dir', 'exp_name'],
    meaning: 'upstream only: its output folder; runs lie in the runs folder',
  }),
  upstream: field(
    z
      .record(z.string(), z.union([z.string(), z.number(), z.boolean(), z.null(), z.array(z.union([z.string(), z.number(), z.boolean()]))]))
      .default({}),
    {
      group: 'bookkeeping',
      kind: 'set',
      impact: 'none',
      meaning: 'settings of upstream’s trainer that have no field here, kept for the diff and for export',
    },
  ),
})

/** A complete stage: every field has its value. */
export type Stage = z.output<typeof stageSchema>
/** What a recipe may write: every field with a default may be left out. */
export type StageInput = z.input<typeof stageSchema>
/** A leaf of a stage addressed by its names joined with dots, such as `optimizer.beta1`. */
export type StagePath = string
