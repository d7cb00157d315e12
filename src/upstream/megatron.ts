import type { Origin } from '../domain/stage/origin.ts'
import type { StagePath } from '../domain/stage/schema.ts'
import type { GivenFlag } from './arguments.ts'
import type { Settings } from './flag-fields.ts'
import type { ReadText } from './launch-config.ts'
import type { StageBuilder } from './stage-builder.ts'
import type { FlagValue } from './trainer.ts'

/*
 * v1.5 trains through Megatron: the optimiser and the parallelism stand in the shell, the model and the data in two JSON files.
 */

type Scalars = ReadonlyMap<string, FlagValue>

/** Folds the flags of the shell and both JSON files into the stage; what the files say is kept under `model.…` and `data.…`. */
export function foldMegatron(
  builder: StageBuilder,
  given: ReadonlyMap<string, GivenFlag>,
  read: ReadText,
  originOf: (flag: string) => Origin,
): void {
  for (const [name, field] of shellFields) {
    const flag = given.get(name)
    if (flag && flag.unset.length === 0) builder.set(field(flag.value, given), originOf(name))
  }
  for (const [flag, prefix, fields] of [
    ['mm-model', 'model', modelFields],
    ['mm-data', 'data', dataFields],
  ] as const) {
    const path = given.get(flag)?.text ?? given.get(flag.replace('-', '_'))?.text
    const text = path === undefined ? undefined : read(path)
    if (text === undefined || path === undefined) continue
    const origin = { layer: 'script', file: path, line: 1, column: 1, name: flag } as const
    const scalars = flattened(text)
    for (const [name, value] of scalars) builder.keep(`${prefix}.${name}`, value, { ...origin, name })
    builder.set(fields(scalars), origin)
    const micro =
      scalars.get('dataloader_param.gradient_accumulation_size') ??
      scalars.get('dataset_param.preprocess_parameters.gradient_accumulation_size')
    if (prefix === 'data' && typeof micro === 'number' && given.get('global-batch-size')?.unset.length !== 0)
      builder.set({ 'batch.accumulate': micro }, { ...origin, name: 'gradient_accumulation_size' })
  }
}

const number = (value: FlagValue) => (typeof value === 'number' ? value : undefined)

type ShellField = (value: FlagValue, given: ReadonlyMap<string, GivenFlag>) => Settings
const plain =
  (path: string): ShellField =>
  (value) => ({ [path]: value })

const shellFields: ReadonlyMap<string, ShellField> = new Map<string, ShellField>([
  ['lr', plain('learningRate')],
  ['train-iters', plain('steps')],
  ['micro-batch-size', plain('batch.perDevice')],
  ['weight-decay', plain('optimizer.weightDecay')],
  ['adam-beta1', plain('optimizer.beta1')],
  ['adam-beta2', plain('optimizer.beta2')],
  ['adam-eps', plain('optimizer.epsilon')],
  ['clip-grad', plain('clip.norm')],
  ['clip_grad_ema_decay', (value) => ({ 'clip.emaDecay': value, 'clip.mode': Number(value) > 0 ? 'adaptive' : 'norm' })],
  ['lr-decay-style', (value) => ({ 'schedule.name': ['constant', 'linear', 'cosine'].includes(String(value)) ? value : undefined })],
  ['lr-warmup-iters', plain('schedule.warmupSteps')],
  ['seed', plain('seed')],
  ['save', plain('output')],
  ['load', plain('init.continueFrom')],
  ['save-interval', plain('checkpoint.everySteps')],
  ['log-interval', plain('logEvery')],
  ['tensor-model-parallel-size', plain('parallel.tensor')],
  ['context-parallel-size', plain('parallel.sequence')],
  ['bf16', (value) => ({ 'memory.precision': value ? 'bf16' : undefined })],
  ['fp16', (value) => ({ 'memory.precision': value ? 'fp16' : undefined })],
  ['use-ema', (value) => ({ 'ema.enabled': value })],
  ['recompute-granularity', (value) => ({ 'memory.checkpointing': value === 'full' ? 'all' : 'selective' })],
  ['selective_recom', (value) => ({ 'memory.checkpointing': value ? 'selective' : undefined })],
  ['global-batch-size', (value, given) => ({ 'batch.accumulate': accumulated(value, given) })],
])

/** Micro-batches per step: global batch / (micro-batch × data-parallel ranks). Undefined where the ranks are not known. */
function accumulated(value: FlagValue, given: ReadonlyMap<string, GivenFlag>): number | undefined {
  const micro = number(given.get('micro-batch-size')?.value ?? 1) ?? 1
  const count = (number(value) ?? 0) / micro
  return Number.isInteger(count) && count === 1 ? 1 : undefined
}

/** Fields of the stage that a value of the model's file is as it stands. */
export const modelPairs: readonly (readonly [string, StagePath])[] = [
  ['predictor.num_heads', 'model.heads'],
  ['predictor.head_dim', 'model.headDim'],
  ['predictor.caption_channels', 'model.textChannels'],
  ['predictor.from_pretrained', 'init.weights'],
  ['predictor.in_channels', 'vae.latentChannels'],
  ['ae.from_pretrained', 'vae.weights'],
  ['ae.base_channels', 'vae.baseChannels'],
  ['ae.use_tiling', 'memory.vaeTiling'],
  ['ae.dtype', 'memory.vaePrecision'],
  ['text_encoder.from_pretrained', 'text.encoder'],
  ['text_encoder_2.from_pretrained', 'text.secondEncoder'],
  ['diffusion.snr_gamma', 'objective.snrGamma'],
  ['diffusion.noise_offset', 'objective.noiseOffset'],
  ['allow_tf32', 'memory.tf32'],
  ['frames', 'shape.frames'],
]

const preprocess = 'dataset_param.preprocess_parameters'

/** The same of the data's file. */
export const dataPairs: readonly (readonly [string, StagePath])[] = [
  ['dataset_param.basic_parameters.data_path', 'data.source'],
  [`${preprocess}.num_frames`, 'shape.frames'],
  [`${preprocess}.max_height`, 'shape.height'],
  [`${preprocess}.max_width`, 'shape.width'],
  [`${preprocess}.max_hxw`, 'shape.maxPixels'],
  [`${preprocess}.min_hxw`, 'shape.minPixels'],
  [`${preprocess}.force_resolution`, 'shape.fixed'],
  [`${preprocess}.hw_stride`, 'shape.multipleOf'],
  [`${preprocess}.train_fps`, 'data.fps'],
  [`${preprocess}.speed_factor`, 'data.speed'],
  [`${preprocess}.drop_short_ratio`, 'data.dropShort'],
  [`${preprocess}.min_num_frames`, 'data.minFrames'],
  [`${preprocess}.cfg`, 'text.captionDropout'],
  ['dataloader_param.num_workers', 'data.workers'],
  ['dataloader_param.group_data', 'data.groupByShape'],
  ['dataset_param.model_max_length', 'text.maxLength'],
]

function paired(scalars: Scalars, pairs: typeof modelPairs): Settings {
  return Object.fromEntries(pairs.map(([name, path]) => [path, scalars.get(name)]))
}

function modelFields(model: Scalars): Settings {
  const value = (name: string) => model.get(name)
  const numbers = (name: string) => (Array.isArray(value(name)) ? value(name) : undefined)
  const layers = numbers('predictor.num_layers') as number[] | undefined
  const flow = /OpenSoraPlan|flow/i.test(String(value('diffusion.model_id')))
  return {
    ...paired(model, modelPairs),
    'model.class': classOf(String(value('predictor.model_id'))),
    'model.stageLayers': layers,
    'model.stageSparseN': numbers('predictor.sparse_n'),
    'model.layers': layers ? layers.reduce((sum, each) => sum + each, 0) : value('predictor.num_layers'),
    'model.sparse': value('predictor.sparse1d') === true,
    'vae.class': /wfvae/i.test(String(value('ae.model_id'))) ? 'WFVAEModel' : 'CausalVAEModel',
    'vae.stride': strideOf(model),
    'objective.name': flow ? 'rectified-flow' : value('diffusion.prediction_type') === 'v_prediction' ? 'v-prediction' : 'epsilon',
    'objective.times': value('diffusion.weighting_scheme') === 'logit_normal' ? 'logit-normal' : undefined,
    'objective.dynamicShift': value('diffusion.use_dynamic_shifting') === true,
  }
}

function classOf(name: string): string {
  return name === 'OpenSoraT2V_v1_3' || name === 'SparseUMMDiT' ? name : 'OpenSoraT2V'
}

/** Two wavelet levels in space, and one more of each where the first level halves time too. */
function strideOf(model: Scalars): readonly number[] {
  const inTime = [model.get('ae.l1_dowmsample_block'), model.get('ae.l2_dowmsample_block')].every((block) => /Time2x3D/.test(String(block)))
  return inTime ? [8, 8] : [4, 8]
}

function dataFields(data: Scalars): Settings {
  return paired(data, dataPairs)
}

/** Scalars of a JSON text by dotted path; lists of scalars stay whole. Nothing where it is no JSON object. */
export function flattened(text: string): Map<string, FlagValue> {
  const found = new Map<string, FlagValue>()
  try {
    flatten(JSON.parse(text), '', found)
  } catch {
    return new Map()
  }
  return found
}

function flatten(value: unknown, path: string, into: Map<string, FlagValue>): void {
  const isList = Array.isArray(value)
  if (value === null || typeof value !== 'object' || (isList && value.every((each) => typeof each !== 'object'))) {
    into.set(path, value as FlagValue)
    return
  }
  for (const [name, child] of Object.entries(value))
    flatten(child, isList ? `${path}[${name}]` : path === '' ? name : `${path}.${name}`, into)
}
