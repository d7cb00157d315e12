import type { Finding, Severity } from '../domain/stage/origin.ts'
import type { ImportedStage } from './imported-stage.ts'
import type { ReadText } from './launch-config.ts'

/** What is known of a release of upstream that a script cannot show: flags without effect, values its code cannot handle. */
interface ReleaseRule {
  readonly rule: string
  readonly severity: Severity
  /** Versions it holds for. */
  readonly versions: RegExp
  readonly families: readonly ImportedStage['trainer']['family'][]
  /** Flags the finding points at, the first one leading; undefined: the rule does not apply. */
  readonly flags: (stage: ImportedStage) => readonly string[] | undefined
  readonly message: string
  readonly hint: string
  /** The file of upstream's tree that shows it, the trainer's own by default, and how: between two tags it may have been otherwise. */
  readonly shown?: { readonly file?: string; readonly by: (source: string, read: ReadText) => boolean }
}

/** What was asked for and what is within reach. */
export interface ReleaseContext {
  /** The version a person named, where one did. */
  readonly asked?: string | undefined
  readonly read: ReadText
}

const value = (stage: ImportedStage, flag: string) => stage.arguments.get(flag)
const isGiven = (stage: ImportedStage, flag: string) => stage.given.has(flag)
const when = (applies: boolean, ...flags: string[]) => (applies ? flags : undefined)
const numberOf = (stage: ImportedStage, flag: string) => Number(value(stage, flag))
const extension = (path: unknown) => (typeof path === 'string' ? /\.(\w+)$/.exec(path)?.[1] : undefined)
const upstreamNumber = (stage: ImportedStage, name: string) => {
  const held = stage.stage.upstream[name]
  return typeof held === 'number' ? held : undefined
}

const rules: readonly ReleaseRule[] = [
  {
    rule: 'init-format',
    severity: 'error',
    versions: /^v1\.3\./,
    families: ['diffusion'],
    flags: (stage) => when(/^(?:pt|pth|ckpt|bin)$/.test(extension(value(stage, 'pretrained')) ?? ''), 'pretrained'),
    message: 'this trainer fails on a pickled file: it uses the checkpoint before it is assigned',
    hint: 'give a .safetensors file or a folder',
    shown: { by: (source) => /torch\.load\(args\.pretrained[^\n]*\n\s*if 'model' in checkpoint/.test(source) },
  },
  {
    rule: 'init-format',
    severity: 'error',
    versions: /^v1\.0\./,
    families: ['diffusion'],
    flags: (stage) => when(extension(value(stage, 'pretrained')) === 'safetensors', 'pretrained'),
    message: 'this trainer reads initial weights with torch.load, which cannot open .safetensors',
    hint: 'convert the weights, or use v1.1 or later',
    shown: { by: (source) => /torch\.load\(args\.pretrained/.test(source) && !/load_file|safe_open/.test(source) },
  },
  {
    rule: 'data-position-lost',
    severity: 'warn',
    versions: /^v1\./,
    families: ['diffusion', 'inpaint', 'lora'],
    flags: (stage) =>
      when(
        value(stage, 'resume_from_checkpoint') != null &&
          isGiven(stage, 'trained_data_global_step') &&
          !numberOf(stage, 'trained_data_global_step'),
        'trained_data_global_step',
        'resume_from_checkpoint',
      ),
    message: 'a checkpoint is resumed while the data starts at its beginning again: clips are repeated',
    hint: 'set --trained_data_global_step to the step of the checkpoint; here the position is part of it',
  },
  {
    rule: 'no-effect',
    severity: 'warn',
    versions: /^v1\.[01]\./,
    families: ['diffusion', 'class'],
    flags: (stage) => some(stage, 'snr_gamma', 'noise_offset', 'prediction_type'),
    message: 'parsed and not used: the loss of this release is the Gaussian diffusion of DiT',
    hint: 'remove it',
  },
  {
    rule: 'no-effect',
    severity: 'warn',
    versions: /^v1\.3\.[01]/,
    families: ['inpaint'],
    flags: (stage) => when(isGiven(stage, 'pretrained'), 'pretrained', 'pretrained_transformer_model_path'),
    message: 'parsed and not used: this trainer reads --pretrained_transformer_model_path',
    hint: 'give --pretrained_transformer_model_path',
  },
  {
    rule: 'sparse-n',
    severity: 'error',
    versions: /^v1\.3\./,
    families: ['diffusion', 'inpaint'],
    flags: (stage) => when(value(stage, 'sparse1d') === true && ![1, 4].includes(numberOf(stage, 'sparse_n')), 'sparse_n', 'sparse1d'),
    message: 'this model knows sparse attention over 1 or 4 sub-sequences only',
    hint: 'use --sparse_n 4',
  },
  {
    rule: 'resolution-flags-conflict',
    severity: 'error',
    versions: /^v1\.[35]/,
    families: ['diffusion', 'inpaint'],
    flags: (stage) => {
      const areas = some(stage, 'max_hxw', 'min_hxw') ?? []
      const silent = !isGiven(stage, 'max_height') || !isGiven(stage, 'max_width')
      return when(
        value(stage, 'force_resolution') === true && silent && areas.length > 0,
        'force_resolution',
        ...areas,
        'max_height',
        'max_width',
      )
    },
    message: 'a fixed resolution ignores area limits, and without height and width it trains at the parser’s 320 × 240',
    hint: 'give --max_height and --max_width, or drop --force_resolution',
  },
  {
    rule: 'scheduler-refused',
    severity: 'error',
    versions: /^v1\.3\.[01]/,
    families: ['inpaint'],
    flags: (stage) => when(value(stage, 'cogvideox_scheduler') === true, 'cogvideox_scheduler', 'v1_5_scheduler'),
    message: 'this trainer aborts as soon as the flag is given: it compares it with itself',
    hint: 'leave it out at this release',
  },
  {
    rule: 'schedulers-exclude',
    severity: 'error',
    versions: /^v1\./,
    families: ['diffusion', 'inpaint'],
    flags: (stage) => {
      const chosen = ['cogvideox_scheduler', 'v1_5_scheduler', 'rf_scheduler'].filter((flag) => value(stage, flag) === true)
      return when(chosen.length > 1, ...chosen)
    },
    message: 'several noise schedules are chosen; one can rule',
    hint: 'keep one',
  },
  {
    rule: 'tag-incomplete',
    severity: 'error',
    versions: /^v1\.3\.0$/,
    families: ['diffusion', 'inpaint', 'vae'],
    flags: () => ['opensora/models/causalvideovae/model/vae'],
    message: 'the tree of this tag lacks opensora/models/causalvideovae/model/vae, which every trainer imports',
    hint: 'use v1.3.1',
  },
  {
    rule: 'ema-overwrites-model',
    severity: 'error',
    versions: /^v1\.[01]\./,
    families: ['diffusion', 'class'],
    flags: (stage) => when(value(stage, 'use_ema') === true, 'use_ema'),
    message: 'this trainer never updates its moving average and copies it over the model at every checkpoint',
    hint: 'leave --use_ema out at this release',
    shown: { by: (source) => !/ema_model\.step\(|update_ema\(/.test(source) },
  },
  {
    rule: 'images-needed',
    severity: 'warn',
    versions: /^v1\.1\./,
    families: ['diffusion'],
    flags: (stage) => when(numberOf(stage, 'use_image_num') === 0, 'use_image_num'),
    message: 'the data set of this release recurses for ever without joint images',
    hint: 'use --use_image_num 4',
  },
  {
    rule: 'data-deleted-on-error',
    severity: 'error',
    versions: /^v1\.1\./,
    families: ['diffusion'],
    flags: (stage) => some(stage, 'video_data', 'video_data_path', 'data_path'),
    message: 'the data set of this release deletes videos it cannot read',
    hint: 'train on a copy',
    shown: { file: 'opensora/dataset/t2v_datasets.py', by: (source) => /^[^#\n]*os\.remove\(/m.test(source) },
  },
  {
    rule: 'buckets-dropped',
    severity: 'info',
    versions: /^v1\.3\./,
    families: ['diffusion', 'inpaint'],
    flags: (stage) => when(value(stage, 'group_data') === true, 'group_data'),
    message: 'buckets with fewer than 4 global batches and clips under 29 frames are dropped without a word',
    hint: 'count what is kept: stagewright data check',
  },
  {
    rule: 'trainer-broken',
    severity: 'error',
    versions: /^v1\.2\.0$/,
    families: ['lora'],
    flags: () => ['enable_lora', 'opensora/train/train_t2v_diffusers_lora.py'],
    message: 'this trainer imports opensora.models.ae, which the tag no longer has, and lacks flags its data set reads',
    hint: 'train the adapters here',
    shown: { by: (source, read) => /opensora\.models\.ae\b/.test(source) && read('opensora/models/ae/__init__.py') === undefined },
  },
  {
    rule: 'steps-count-two-optimisers',
    severity: 'warn',
    versions: /^v1\.[01]\./,
    families: ['vae'],
    flags: () => ['max_steps'],
    message: 'every batch counts two steps, one per optimiser: the generator takes half of them',
    hint: 'plan with half the steps',
  },
  {
    rule: 'learning-rate-fixed',
    severity: 'warn',
    versions: /^v1\.0\./,
    families: ['vae'],
    flags: () => ['lr', 'learning_rate'],
    message: 'the generator’s learning rate is fixed in the code of this release: 1e-4 for temporal layers, 1e-5 for the others',
    hint: 'use v1.1 or later to choose it',
  },
  {
    rule: 'discriminator-carried-over',
    severity: 'info',
    versions: /^v1\.[23]\./,
    families: ['vae'],
    flags: (stage) => some(stage, 'resume_from_checkpoint', 'pretrained_model_name_or_path'),
    message: 'resuming keeps the discriminator and both optimisers; starting from pretrained weights begins with a new discriminator',
    hint: 'a new stage refreshes the discriminator: use --pretrained_model_name_or_path',
  },
  {
    rule: 'no-effect',
    severity: 'warn',
    versions: /^v1\.[23]\./,
    families: ['vae'],
    flags: (stage) => some(stage, 'max_steps'),
    message: 'only the progress bar reads it: --epochs decides when training ends',
    hint: 'give --epochs',
  },
  {
    rule: 'vae-not-used',
    severity: 'warn',
    versions: /^v1\.3/,
    families: ['vae'],
    flags: (stage) => when(stage.stage.vae.latentChannels !== 8, 'model_config', 'latent_dim', 'ae', 'ae_path', 'vae.latentChannels'),
    message:
      'the video stages of this release use WFVAEModel_D8_4x8x8, whose latents have 8 channels; what is trained here fits none of them',
    hint: 'train 8 channels, or train the video stages on this autoencoder',
  },
  {
    rule: 'init-flag-differs',
    severity: 'warn',
    versions: /^v1\.3\+74a3a6f1$/,
    families: ['inpaint'],
    flags: (stage) => some(stage, 'pretrained_transformer_model_path'),
    message: 'this commit reads --pretrained; tags v1.3.0 and v1.3.1 read --pretrained_transformer_model_path',
    hint: 'give --pretrained',
  },
  {
    rule: 'masks-differ-from-report',
    severity: 'warn',
    versions: /^v1\.3/,
    families: ['inpaint'],
    flags: (stage) => {
      const file = String(value(stage, 'mask_config') ?? '')
      const isKnown = stage.origins.get('objective.maskRatios')?.layer === 'script' || file.endsWith('train_configs/mask_config.yaml')
      return when(isKnown && sharesAreSwapped(stage.stage.objective.maskRatios), 'mask_config', 'objective.maskRatios', file)
    },
    message: 'the report draws 5 % continuation and 10 % random masks; here the shares are the same with owners exchanged',
    hint: 'write continuation: 1 and random_temporal: 2 for the report’s mix',
  },
  {
    rule: 'not-in-report',
    severity: 'info',
    versions: /^v1\.5/,
    families: ['megatron'],
    flags: (stage) => {
      const { frames, height, width } = stage.stage.shape
      const isSaid = (path: string) => stage.origins.get(path)?.layer === 'script'
      const ownShape = `${frames}x${isSaid('shape.height') ? `${height}x${width}` : ''}`
      const isReported = reportedShapes.some((shape) => shape.startsWith(ownShape))
      return when(isSaid('shape.frames') && frames > 1 && !isReported, 'num_frames', 'max_height', 'max_width', 'lr', 'shape.frames')
    },
    message: 'the report has no video stage of this shape: it was tried and left, or it is new',
    hint: 'expect no published weights of it',
  },
  {
    rule: 'report-misprint',
    severity: 'info',
    versions: /^v1\.5/,
    families: ['diffusion'],
    flags: ({ stage: { shape } }) =>
      when(shape.frames === 1 && shape.height === 256 && shape.width === 256, 'train_batch_size', 'batch.perDevice'),
    message:
      'the report’s global batch for images of 256² is 8096 on 512 devices, which no batch per device gives: 8192, 16 each, as in its next stages',
    hint: 'count with 16 clips per device',
  },
  {
    rule: 'steps-alternate',
    severity: 'info',
    versions: /^v1\.[23]\./,
    families: ['vae'],
    flags: () => ['disc_start', 'max_steps'],
    message: 'once the discriminator joins, every other step trains it alone: the generator takes half of the steps',
    hint: 'plan with half the steps',
  },
  {
    rule: 'tuple-defaults',
    severity: 'info',
    versions: /^v1\.[01]\./,
    families: ['videogpt'],
    flags: (stage) => Object.keys(stage.trainer.flags).filter((flag) => flag !== 'data_path' && flag !== 'output_dir'),
    message: 'the defaults of these options are one-element tuples by accident: they are safe only when given',
    hint: 'give all of them',
  },
  {
    rule: 'no-effect',
    severity: 'warn',
    versions: /^v1\.5/,
    families: ['megatron'],
    flags: (stage) =>
      when(isGiven(stage, 'clip-grad') && Number(value(stage, 'clip_grad_ema_decay') ?? 0.99) > 0, 'clip-grad', 'clip_grad_ema_decay'),
    message: 'the adaptive clipping that clip_grad_ema_decay switches on, by default too, decides instead',
    hint: 'set --clip_grad_ema_decay 0 to clip at a fixed norm',
  },
  {
    rule: 'no-effect',
    severity: 'warn',
    versions: /^v1\.5/,
    families: ['megatron'],
    flags: (stage) =>
      when(
        numberOf(stage, 'lr-warmup-iters') > 0 && numberOf(stage, 'lr-warmup-init') >= numberOf(stage, 'lr'),
        'lr-warmup-iters',
        'lr-warmup-init',
        'lr',
      ),
    message: 'the warm-up starts at the learning rate it rises to',
    hint: 'set --lr-warmup-init below --lr',
  },
  {
    rule: 'shell-and-json-disagree',
    severity: 'warn',
    versions: /^v1\.5/,
    families: ['megatron'],
    flags: (stage) => {
      const json = upstreamNumber(stage, 'data.dataloader_param.gradient_accumulation_size')
      return when(
        json !== undefined && json !== stage.stage.batch.accumulate,
        'data.dataloader_param.gradient_accumulation_size',
        'global-batch-size',
        'batch.accumulate',
      )
    },
    message: 'the data file and the shell accumulate over different numbers of micro-batches: the sampler resumes at another place',
    hint: 'write the same number in both',
  },
  {
    rule: 'shell-and-json-disagree',
    severity: 'warn',
    versions: /^v1\.5/,
    families: ['megatron'],
    flags: (stage) => {
      const [heads, size] = [upstreamNumber(stage, 'model.predictor.num_heads'), upstreamNumber(stage, 'model.predictor.head_dim')]
      if (heads === undefined || size === undefined) return undefined
      const same = numberOf(stage, 'num-attention-heads') === heads && numberOf(stage, 'hidden-size') === heads * size
      return when(!same, 'num-attention-heads', 'hidden-size', 'model.predictor.num_heads', 'model.predictor.head_dim')
    },
    message: 'the model is built from its file, while Megatron’s checks use other heads or another width',
    hint: 'hidden size = heads × head size, the same in both',
  },
]

/** Frames × height × width of the video stages in the report of v1.5. */
const reportedShapes: readonly string[] = ['57x288x512', '121x288x512', '121x576x1024']

/** Percent of each kind of mask in the report of v1.3. */
const reportedMasks: Readonly<Record<string, number>> = { t2iv: 5, i2v: 40, transition: 40, continuation: 5, clear: 0, random_temporal: 10 }

/** Whether a mix has the report's shares, given to other masks. */
function sharesAreSwapped(ratios: Readonly<Record<string, number>>): boolean {
  const kinds = Object.keys(reportedMasks)
  const sum = kinds.reduce((total, kind) => total + (ratios[kind] ?? 0), 0)
  const shares = kinds.map((kind) => Math.round((100 * (ratios[kind] ?? 0)) / sum))
  const reported = kinds.map((kind) => reportedMasks[kind] ?? 0)
  const ordered = (list: readonly number[]) => list.toSorted((a, b) => a - b).join()
  return ordered(shares) === ordered(reported) && shares.join() !== reported.join()
}

function some(stage: ImportedStage, ...flags: string[]): readonly string[] | undefined {
  const found = flags.filter((flag) => isGiven(stage, flag))
  return found.length > 0 ? found : undefined
}

/** Files that upstream's own scripts name at a tag and that its tree does not have. */
const absentFiles: Readonly<Record<string, readonly string[]>> = {
  'v1.0': ['scripts/causalvae/288.yaml'],
  'v1.1': ['scripts/causalvae/288.yaml'],
  'v1.2': [
    'scripts/accelerate_configs/multi_node_example_by_deepspeed.yaml',
    'opensora/train/train_inpaint.py',
    'scripts/causalvae/train_causalvae.py',
    'scripts/config.json',
  ],
}

/** Findings about what a release does with a stage's flags. */
export function releaseFindings(stage: ImportedStage, context: ReleaseContext): Finding[] {
  const { version, family, path } = stage.trainer
  const trainerSource = context.read(path)
  const known = rules
    .filter(({ versions, families }) => versions.test(version) && families.includes(family))
    .flatMap(({ rule, severity, flags, message, hint, shown }) => {
      const found = flags(stage)
      const [first] = found ?? []
      if (!found || first === undefined || (shown && trainerSource !== undefined && !isShown(shown, trainerSource, context.read))) return []
      return [finding(stage, rule, severity, found, `${flagText(first)}: ${message}`, hint)]
    })
  return [...known, ...unread(stage, trainerSource), ...clipping(stage), ...absent(stage, context)]
}

/** Whether a tree within reach has what the release is known for. */
function isShown({ file, by }: NonNullable<ReleaseRule['shown']>, trainerSource: string, read: ReadText): boolean {
  const source = file === undefined ? trainerSource : read(file)
  return source !== undefined && by(source, read)
}

function flagText(name: string): string {
  return name.includes('/') || name.includes('.') ? name : `--${name}`
}

/** Flags that are given and that nothing reads; a trainer within reach may be of a commit that still does. */
function unread(stage: ImportedStage, source: string | undefined): Finding[] {
  const isRead = (name: string) => source?.includes(`args.${name}`) === true
  return [...stage.given.keys()]
    .filter((name) => stage.trainer.flags[name]?.unread === true && !isRead(name))
    .map((name) =>
      finding(
        stage,
        'no-effect',
        'warn',
        [name],
        `--${name}: parsed by ${stage.trainer.path} at ${stage.version} and read by nothing`,
        'remove it',
      ),
    )
}

/** Under DeepSpeed the threshold of its file counts, not the flag. */
function clipping(stage: ImportedStage): Finding[] {
  if (stage.origins.get('parallel.zeroStage')?.name !== 'deepspeed') return []
  const { mode, norm } = stage.stage.clip
  const clips = mode === 'none' ? 'none' : String(norm)
  const message = `--max_grad_norm: DeepSpeed clips by its own file (${clips}), so ${String(value(stage, 'max_grad_norm') ?? 'the flag')} has no effect`
  return [
    finding(
      stage,
      'clip-owner',
      'warn',
      ['max_grad_norm', 'gradient_clipping', 'clip.norm'],
      message,
      'set gradient_clipping in the DeepSpeed file',
    ),
  ]
}

/** A trainer known from a commit between two tags is in that commit's tree; only who names a tag gets a tree without it. */
function absent(stage: ImportedStage, { asked, read }: ReleaseContext): Finding[] {
  const tag = /^v?\d+\.\d+\.\d+$/.test(asked ?? '') ? asked : undefined
  const own = stage.version.includes('+') && tag === undefined ? stage.trainer.path : undefined
  if (stage.findings.some(({ rule }) => rule === 'missing-file')) return []
  const files = absentFiles[stage.version.slice(0, 4)] ?? []
  if (files.length === 0) return []
  const named = new Set(
    [...Object.entries(stage.stage.upstream)].filter(([name]) => name.startsWith('launch.')).map(([, text]) => String(text)),
  )
  for (const text of stage.arguments.values()) if (typeof text === 'string') named.add(text)
  return files
    .filter((file) => named.has(file) && file !== own && read(file) === undefined)
    .map((file) =>
      finding(
        stage,
        'missing-file',
        'error',
        [file],
        `${file}: the tree of ${tag ?? stage.version} does not have it`,
        'take it from another version, or write it',
      ),
    )
}

function finding(stage: ImportedStage, rule: string, severity: Severity, paths: readonly string[], message: string, hint: string): Finding {
  const word = paths.flatMap((name) => stage.given.get(name)?.word ?? [])[0]
  const place = stage.origins.get('upstream.launch.program')
  const fields = [...(stage.flagNames ?? [])].filter(([, flag]) => paths.includes(flag)).map(([path]) => path)
  return {
    rule,
    severity,
    message,
    where: { file: stage.script, line: word?.line ?? place?.line ?? 1, column: word?.column ?? place?.column ?? 1 },
    paths: [...new Set([...paths, ...fields])],
    hint,
  }
}
