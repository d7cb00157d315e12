import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { globalBatch } from '../domain/diff/quantities.ts'
import { UserError } from '../domain/errors.ts'
import { stageFindings } from '../domain/findings/stage-findings.ts'
import { latentShape } from '../domain/shapes.ts'
import type { Finding, StageSide } from '../domain/stage/origin.ts'
import type { Stage, StagePath } from '../domain/stage/schema.ts'
import { type LoadPlan, loadPlan } from '../weights/load-plan.ts'
import { weightSet } from '../weights/weight-set.ts'
import { type CacheState, type DataInputs, dataInputs, recipeFileOf } from './data.ts'
import { type DiskPlan, diskPlan } from './disk.ts'
import type { EstimateInputs } from './estimate.ts'
import { findWeights } from './hand-off.ts'
import { ask } from './questions.ts'
import type { RunsWorld } from './world.ts'

/** What Python says of a stage before it trains. */
export interface StageAnswers {
  readonly parameters: {
    readonly total: number
    readonly tensors: number
    /** Parameters of low-rank adapters, which are part of the total. */
    readonly adapters: number
    readonly shapes: Readonly<Record<string, readonly number[]>>
    readonly phases: readonly {
      readonly start: number
      readonly waitsForPlateau: boolean
      readonly selectors: readonly string[]
      readonly trainable: number
      readonly share: number
      readonly optimizerBytes: number
      readonly groups: readonly { readonly name: string; readonly parameters: number; readonly learningRate: number }[]
    }[]
  }
  readonly learningRate: readonly { readonly step: number; readonly learningRate: number }[]
  readonly memory: { readonly parts: Readonly<Record<string, number>>; readonly total: number; readonly error: number }
  readonly data?: {
    readonly clips: number
    readonly heldOut: number
    readonly dropped: Readonly<Record<string, number>>
    readonly buckets: Readonly<Record<string, number>>
    readonly stepsPerEpoch: number
    readonly endsAt: number
    readonly endsBecause: string
  }
  /** Absent where the stage keeps no encodings. */
  readonly cache?: CacheState
}

/** A plan: the stage, what follows from its settings, what Python answered, and what to look at. */
export interface StagePlan {
  readonly label: string
  readonly stage: Stage
  readonly globalBatch: number
  readonly latent: { readonly frames: number; readonly height: number; readonly width: number } | undefined
  readonly tokensPerClip: number | undefined
  readonly answers: StageAnswers
  readonly disk: DiskPlan
  /** How the starting weights fit, where they are there already; undefined for random ones and for those of a stage to come. */
  readonly load: LoadPlan | undefined
  readonly findings: readonly Finding[]
}

/** Names of the parameters that train in any phase of a stage. */
export async function everTrainable(stage: Stage, world: RunsWorld): Promise<readonly string[]> {
  return (await ask('trainable', { stage }, world)) as readonly string[]
}

/** Files that a plan may do without, with a finding for each that is not there. */
export interface Without {
  readonly weights: boolean
  readonly data: boolean
}

/** Plans one stage. What it says of parameters, learning rate, memory and data comes from Python and nowhere else. */
export async function planStage(side: StageSide, world: RunsWorld, parent?: StageSide, without?: Without): Promise<StagePlan> {
  const missing: Finding[] = []
  const weights = without?.weights ? weightsOrFinding(side.stage, world, missing) : weightsNow(side.stage, world)
  const stage = without?.data ? withDataThereIs(side.stage, world, missing) : side.stage
  const source = stage.data.source === null ? null : resolve(world.cwd, stage.data.source)
  const { vae, cache } = cacheInputs({ ...side, stage }, world)
  const answers = (await ask('plan', { stage, source, weights: weights ?? null, vae, cache }, world)) as StageAnswers
  const latent = latentOf(stage)
  return {
    label: side.label,
    stage: side.stage,
    globalBatch: globalBatch(stage),
    latent,
    tokensPerClip: latent && stage.kind !== 'vae' ? tokensOf(latent, stage) : undefined,
    answers,
    disk: diskPlan(stage, answers.parameters, world.runsFolder),
    load: weights === undefined || isPickle(weights) ? undefined : loadOf(stage, answers, weights),
    findings: [...missing, ...side.findings, ...stageFindings(side, parent)],
  }
}

/** The files of a stage that are there already, for an estimate or a probe. */
export function estimateInputs(side: StageSide, world: RunsWorld, without: Without): EstimateInputs {
  const unsaid: Finding[] = []
  const stage = without.data ? withDataThereIs(side.stage, world, unsaid) : side.stage
  const weights = without.weights ? weightsOrFinding(stage, world, unsaid) : weightsNow(stage, world)
  const data = stage.data.source === null ? null : resolve(world.cwd, stage.data.source)
  return { weights: weights ?? null, data, ...cacheInputs({ ...side, stage }, world, true) }
}

const notThere = new Set(['WEIGHTS_MISSING', 'RUN_UNKNOWN', 'CHECKPOINT_MISSING'])

/** The starting weights; a finding where they are not there. */
function weightsOrFinding(stage: Stage, world: RunsWorld, missing: Finding[]): string | undefined {
  try {
    return weightsNow(stage, world)
  } catch (cause) {
    if (!(cause instanceof UserError && notThere.has(cause.code))) throw cause
    missing.push(missingFile('weights-missing', 'init.weights', cause.message, `${cause.hint}; init.weights=null starts from random ones`))
    return undefined
  }
}

/** The stage, without a source of data that is not there, which is a finding. */
function withDataThereIs(stage: Stage, { cwd }: RunsWorld, missing: Finding[]): Stage {
  const { source } = stage.data
  if (source === null || existsSync(resolve(cwd, source))) return stage
  const message = `${source}: expected a folder or a list file, got nothing there`
  missing.push(missingFile('data-missing', 'data.source', message, '--data FOLDER names clips of yours'))
  return { ...stage, data: { ...stage.data, source: null } }
}

function missingFile(rule: string, path: StagePath, message: string, hint: string): Finding {
  return { rule, severity: 'error', message: `${path}: ${message}`, where: { path }, paths: [path], hint }
}

/** The autoencoder, where it is there already, and the folder of a stage's caches; Python says what is kept. */
function cacheInputs({ stage, label }: StageSide, world: RunsWorld, always = false): Pick<DataInputs, 'vae' | 'cache'> {
  if (!always && (stage.data.cache === 'off' || stage.data.source === null)) return { vae: null, cache: null }
  try {
    return dataInputs(stage, stage.data.source ?? '.', recipeFileOf(label), world)
  } catch (cause) {
    // A stage to come may need weights that are still to be trained.
    if (!(cause instanceof UserError)) throw cause
    return { vae: null, cache: null }
  }
}

/** The starting weights, where they are there already. */
function weightsNow({ init }: Stage, { cwd, runsFolder }: RunsWorld): string | undefined {
  if (init.weights === null || init.weights.startsWith('stage:')) return undefined
  return findWeights(init.weights, init.use, { cwd, runsFolder, earlier: new Map() }).path
}

/** A pickle has no header to read; the trainer checks it when it keeps it as safetensors. */
function isPickle(path: string): boolean {
  return /\.(?:ckpt|pt|pth|bin)$/.test(path)
}

/** The load plan from headers alone: nothing is loaded, no process starts. */
function loadOf({ init }: Stage, { parameters }: StageAnswers, weights: string): LoadPlan {
  return loadPlan(new Map(Object.entries(parameters.shapes)), weightSet(weights).tensors, init.accept)
}

function latentOf({ shape, vae }: Stage): StagePlan['latent'] {
  const [time = 1, space = 1] = vae.stride
  const { frames, height, width } = latentShape(
    { unit: 'pixel', frames: shape.frames, height: shape.height, width: shape.width },
    { time, space },
  )
  return { frames, height, width }
}

function tokensOf(latent: NonNullable<StagePlan['latent']>, { model }: Stage): number {
  const [time = 1, height = 1, width = 1] = model.patch
  return Math.ceil(latent.frames / time) * Math.ceil(latent.height / height) * Math.ceil(latent.width / width)
}
