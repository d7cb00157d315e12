import { resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { execa } from 'execa'
import { UserError } from '../domain/errors.ts'
import { endOf } from '../domain/run/state.ts'
import type { Stage } from '../domain/stage/schema.ts'
import { listRuns, type Run, readState } from '../store/runs.ts'
import { parseAddress } from './address.ts'
import { findWeights } from './hand-off.ts'
import { goodEnds } from './launch.ts'
import { ask } from './questions.ts'
import { randomWeights } from './tiny.ts'
import type { RunsWorld } from './world.ts'

/** What every rule makes of a stage's data, from its metadata alone. */
export interface DataReport {
  readonly entries: number
  readonly kept: number
  readonly heldOut: number
  readonly training: number
  /** Pictures that go along with the clips (data.imagesPerClip). */
  readonly jointImages: number
  readonly empty: boolean
  readonly dropped: readonly {
    readonly rule: string
    readonly clips: number
    readonly examples: readonly string[]
    readonly remedy: string
    readonly change: { readonly setting: string; readonly from: unknown; readonly to: unknown; readonly keeps: number } | null
  }[]
  readonly buckets: readonly {
    readonly frames: number
    readonly height: number
    readonly width: number
    readonly clips: number
    readonly batches: number
  }[]
  readonly globalBatch: number
  readonly stepsPerEpoch: number
  readonly endsAt: number
  readonly endsBecause: string
}

/** Checks the data of a stage. Raises UserErrors DATA_…. */
export async function checkStageData(stage: Stage, source: string, world: RunsWorld): Promise<DataReport> {
  return (await ask('dataCheck', { stage, source: resolve(world.cwd, source) }, world)) as DataReport
}

/** The annotation written for a folder: where it lies, and the clips that lack something. */
export interface WrittenAnnotation {
  readonly listFile: string
  readonly annotation: string
  readonly entries: number
  readonly withoutCaption: readonly string[]
  /** Left out: files without the header of a video or an image. */
  readonly unreadable: readonly string[]
}

/** Writes upstream's list file and annotation for a folder of clips. Raises UserErrors DATA_…. */
export async function initData(folder: string, world: RunsWorld): Promise<WrittenAnnotation> {
  return (await ask('dataInit', { folder: resolve(world.cwd, folder) }, world)) as WrittenAnnotation
}

/** Files of a stage's data, autoencoder and caches. */
export interface DataInputs {
  readonly data: string
  readonly vae: string | null
  readonly cache: string | null
}

/** What is kept of one kind of encodings. `stale` names files that have changed since. */
export interface CacheCoverage {
  readonly folder: string
  readonly entries: number
  readonly bytes: number
  readonly wanted: number
  readonly lookedAt: number
  readonly found: number
  readonly unread: number
  readonly stale: readonly string[]
}

/** The caches of a stage. `why` says why nothing can be told of its latents. */
export interface CacheState {
  readonly folder: string
  readonly latents: CacheCoverage | null
  readonly text?: CacheCoverage | null
  readonly why: string | null
  readonly problems: readonly string[]
  readonly others: readonly {
    readonly kind: string
    readonly folder: string
    readonly entries: number
    readonly bytes: number
    readonly differs: readonly string[]
  }[]
}

/** What a build did with one cache. */
export interface FilledCache {
  readonly folder: string
  readonly wanted: number
  readonly found: number
  readonly made: number
  readonly refused: readonly string[]
  readonly damaged: readonly { readonly path: string; readonly problem: string }[]
  readonly bytes: number
  readonly seconds: number
}

/** What a build says while it goes on. */
export type CacheProgress =
  | { readonly event: 'filling'; readonly kind: string; readonly wanted: number; readonly found: number; readonly made: number }
  | { readonly event: 'verifying' | 'verified'; readonly kind: string; readonly read: number; readonly right: number }

export interface CacheBuild {
  readonly formatVersion: 1
  readonly latents: FilledCache
  readonly text?: FilledCache | null
}

/** The files a stage's clips are encoded from and with. `recipe` is the file whose earlier stages `stage:NAME` may mean. */
export function dataInputs(stage: Stage, source: string, recipe: string | undefined, world: RunsWorld): DataInputs {
  const earlier = recipe === undefined ? new Map<string, Run>() : finishedStages(resolve(world.cwd, recipe), world)
  const address = stage.kind === 'vae' || stage.vae.weights === randomWeights ? null : stage.vae.weights
  return {
    data: resolve(world.cwd, source),
    vae: address === null ? null : findWeights(address, 'ema', { cwd: world.cwd, runsFolder: world.runsFolder, earlier }).path,
    cache: stage.data.cacheFolder === null ? null : resolve(world.cwd, stage.data.cacheFolder),
  }
}

/** The recipe a label of one of its stages names; undefined for other labels. */
export function recipeFileOf(label: string): string | undefined {
  try {
    const address = parseAddress(label)
    return address.kind === 'recipe' ? address.file : undefined
  } catch (cause) {
    if (cause instanceof UserError) return undefined
    throw cause
  }
}

/** The newest run of each stage of a recipe that came to a good end. */
function finishedStages(recipe: string, world: RunsWorld): Map<string, Run> {
  const found = new Map<string, Run>()
  for (const run of listRuns(world.runsFolder)) {
    const from = run.identity.recipe
    if (from === null || resolve(world.cwd, from.file) !== recipe) continue
    const end = endOf(readState(run))
    if (end && goodEnds.includes(end.reason)) found.set(from.stage, run)
  }
  return found
}

/** The clips of a stage, their buckets, and what is kept of them. Raises UserErrors DATA_…. */
export async function showStageData(
  stage: Stage,
  inputs: DataInputs,
  world: RunsWorld,
): Promise<DataReport & { readonly cache: CacheState | null }> {
  const { data: source, vae, cache } = inputs
  return (await ask('dataShow', { stage, source, vae, cache }, world)) as DataReport & { readonly cache: CacheState | null }
}

/**
 * Fills the caches of a stage in a process of its own; what is kept already is passed over. Ended by `signal`, it keeps what it has
 * and returns nothing. Raises UserErrors CACHE_…, CLIPS_DAMAGED and DATA_….
 */
export async function fillCaches(
  stage: Stage,
  inputs: DataInputs,
  options: TalkOptions<CacheProgress> & { readonly verify: boolean },
  world: RunsWorld,
): Promise<CacheBuild | undefined> {
  return (await talk('cache', 'filled', { stage, inputs, verify: options.verify }, options, world)) as CacheBuild | undefined
}

/** Clips of a stage that cannot be decoded. */
export interface DecodeReport {
  readonly formatVersion: 1
  readonly read: number
  readonly damaged: FilledCache['damaged']
}

interface DecodeProgress {
  readonly event: 'decoding'
  readonly clips: number
  readonly read: number
  readonly damaged: number
}

/** Decodes every clip of a stage once, in a process of its own; nothing where `signal` ended it. Raises UserErrors DATA_…. */
export async function decodeStageData(
  stage: Stage,
  source: string,
  options: TalkOptions<DecodeProgress>,
  world: RunsWorld,
): Promise<DecodeReport | undefined> {
  const inputs = { data: resolve(world.cwd, source) }
  return (await talk('decode', 'decoded', { stage, inputs }, options, world)) as DecodeReport | undefined
}

interface TalkOptions<Progress> {
  readonly signal: AbortSignal
  readonly say: (progress: Progress) => void
}

/** One request to a Python process of its own and its answer, the event named `lastEvent`; undefined where `signal` ended it. */
async function talk<Progress>(
  command: string,
  lastEvent: string,
  request: object,
  options: TalkOptions<Progress>,
  world: RunsWorld,
): Promise<unknown> {
  const { python, pythonPath } = world.python()
  const child = execa(python, ['-m', 'osplan', command], {
    cwd: world.cwd,
    env: { PYTHONPATH: pythonPath },
    input: JSON.stringify(request),
    stdout: 'pipe',
    stderr: 'pipe',
    buffer: { stdout: false, stderr: true },
    maxBuffer: 1 << 20,
    reject: false,
    cancelSignal: options.signal,
    // What waits for the disk is written first.
    forceKillAfterDelay: 60_000,
  })
  let last: ({ readonly event: string } & Record<string, unknown>) | undefined
  for await (const line of createInterface({ input: child.stdout })) {
    last = JSON.parse(line) as typeof last
    if (last?.event !== lastEvent && last?.event !== 'failed') options.say(last as Progress)
  }
  const { exitCode, stderr } = await child
  if (last?.event === lastEvent) {
    const { event: _, ...answer } = last
    return answer
  }
  if (last?.event === 'failed') {
    throw new UserError(String(last.code), String(last.message), typeof last.hint === 'string' ? { hint: last.hint } : {})
  }
  if (options.signal.aborted) return undefined
  throw new Error(`python -m osplan ${command} ended with ${exitCode}: ${String(stderr).slice(-4000)}`)
}
