import { createHash } from 'node:crypto'
import { readdirSync, statSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { FoundRun } from '../domain/chain.ts'
import { UserError } from '../domain/errors.ts'
import type { EndReason, RunIdentity, SupervisorEvent } from '../domain/protocol.ts'
import { endOf, newestAttempt } from '../domain/run/state.ts'
import type { StageSide } from '../domain/stage/origin.ts'
import { type Stage, stageSchema } from '../domain/stage/schema.ts'
import { FileChanges } from '../store/changes.ts'
import { checkpointsOf, findCheckpoint, hashFile, verifyCheckpoint } from '../store/checkpoints.ts'
import { supervisorJournal } from '../store/journal.ts'
import { keepOrigins } from '../store/origins.ts'
import { chooseRanks } from '../store/ranks.ts'
import { chooseEngine, createRun, filesOf, type Run, readState, runsOfContent } from '../store/runs.ts'
import { contentHash } from './content-hash.ts'
import { describeHandOff, type FoundWeights, findWeights, type HandOff, weightsOf } from './hand-off.ts'
import { withAbsolutePaths } from './local-paths.ts'
import { settledState } from './supervise.ts'
import { isSupervised } from './supervisor-lock.ts'
import { randomWeights } from './tiny.ts'
import type { RunsWorld } from './world.ts'

const startPollMs = 100

/** Ends after which the next stage may begin. */
export const goodEnds: readonly EndReason[] = ['completed', 'plateau', 'data-exhausted']

/** A run that is about to start, or one found that trains the very same thing. */
export interface Prepared {
  readonly run: Run
  readonly handOff: HandOff
  /** Whether it was made, or found finished, training now, or broken off with something to go on from. */
  readonly found: FoundRun
}

export interface LaunchOptions {
  readonly verb: Exclude<RunIdentity['verb'], 'replay' | 'import'>
  /** Runs of the recipe's earlier stages, for `stage:NAME`. */
  readonly earlier?: ReadonlyMap<string, Run>
  readonly recipe?: RunIdentity['recipe']
  /** Takes a run of the same content, finished or not, instead of training from the start. */
  readonly reuse?: boolean
  /** Whether a run of the same content that was made and never started may be taken as well; none is without this. */
  readonly unstarted?: (run: Run) => boolean
  /** Checkpoint whose optimiser state is taken over (branch). */
  readonly state?: string
  /** Whose checkpoint it starts from, where its starting weights do not say so. */
  readonly parent?: RunIdentity['parent']
}

/** Makes the run folder of a stage: addresses become files, identity and stage are written. Nothing is started. */
export async function prepareRun(side: StageSide, options: LaunchOptions, world: RunsWorld): Promise<Prepared> {
  const { stage, weights, vae, data, hash } = await contentOf(side.stage, options.earlier ?? new Map(), world)
  const cache = stage.data.cacheFolder === null ? null : resolve(world.cwd, stage.data.cacheFolder)
  const handOff = describeHandOff(options.verb, stage.init.weights ?? 'random weights', stage)
  const same = options.reuse ? await sameRun(hash, options.unstarted, world) : undefined
  if (same) return { ...same, handOff: same.found === 'unfinished' ? goingOn(same.run) : handOff }
  // What is missing is said before anything is made.
  world.python()
  const run = createRun(place(world), stage, {
    recipe: options.recipe ?? null,
    verb: options.verb,
    parent: options.parent ?? weights?.parent ?? null,
    inputs: { weights: weights?.path ?? null, vae: vae?.path ?? null, state: options.state ?? null, data, cache },
    contentHash: hash,
  })
  keepOrigins(run, side.origins)
  return { run, handOff, found: 'new' }
}

/** What a stage trains on and from, and the hash over all of it. Raises UserErrors WEIGHTS_MISSING, RUN_UNKNOWN and CHECKPOINT_MISSING. */
async function contentOf(unplaced: Stage, earlier: ReadonlyMap<string, Run>, { cwd, runsFolder }: RunsWorld) {
  const stage = withAbsolutePaths(unplaced, cwd)
  const where = { cwd, runsFolder, earlier }
  const weights = stage.init.weights === null ? undefined : findWeights(stage.init.weights, stage.init.use, where)
  const vaeAddress = stage.kind === 'vae' || stage.vae.weights === randomWeights ? null : stage.vae.weights
  const vae = vaeAddress === null ? undefined : findWeights(vaeAddress, 'ema', where)
  const data = stage.data.source === null ? null : resolve(cwd, stage.data.source)
  const hash = contentHash(stage, { data, weightsSha256: await weightsHash(weights), vaeSha256: await weightsHash(vae) })
  return { stage, weights, vae, data, hash }
}

/**
 * Finished runs of stages, by their names: the newest of each that trained the very same thing. One whose own earlier stages are not
 * all there has none.
 */
export async function finishedRuns(stages: readonly Stage[], world: RunsWorld): Promise<Map<string, Run>> {
  const runs = new Map<string, Run>()
  for (const stage of stages) {
    const needed = [stage.init.weights, stage.vae.weights].flatMap((address) => /^stage:(.+)$/.exec(address ?? '')?.[1] ?? [])
    if (!needed.every((name) => runs.has(name))) continue
    const same = await sameRun((await contentOf(stage, runs, world)).hash, undefined, world)
    if (same?.found === 'finished') runs.set(stage.name, same.run)
  }
  return runs
}

function place({ runsFolder, now, random, socketFolder }: RunsWorld) {
  return { runsFolder, now: now(), random, socketFolder }
}

async function weightsHash(found: FoundWeights | undefined): Promise<string | null> {
  if (!found) return null
  if (found.parent) return found.parent.sha256
  if (!statSync(found.path).isDirectory()) return hashFile(found.path)
  const names = readdirSync(found.path).filter((name) => /\.(safetensors|json)$/.test(name))
  const hashes = await Promise.all(names.sort().map(async (name) => `${name} ${await hashFile(join(found.path, name))}`))
  return createHash('sha256').update(hashes.join('\n')).digest('hex')
}

/**
 * The newest run of the same content that has come to a good end, trains now, or was broken off. One that failed by its numbers is
 * not gone on with: it would fail again.
 */
async function sameRun(
  hash: string,
  unstarted: LaunchOptions['unstarted'],
  world: RunsWorld,
): Promise<Omit<Prepared, 'handOff'> | undefined> {
  const candidates = runsOfContent(world.runsFolder, hash).filter(({ identity }) => identity.verb !== 'replay')
  for (const run of candidates.reverse()) {
    const attempt = newestAttempt(await settledState(run, world))
    if (!attempt && unstarted?.(run)) return { run, found: 'new' }
    if (!attempt || attempt.end?.reason === 'non-finite') continue
    if (!attempt.end) return { run, found: 'training' }
    return { run, found: goodEnds.includes(attempt.end.reason) ? 'finished' : 'unfinished' }
  }
  return undefined
}

/** What continuing a run carries, from its newest checkpoint or from its start where it has none. */
export function goingOn(run: Run): HandOff {
  const checkpoint = checkpointsOf(run).at(-1)
  if (checkpoint) return describeHandOff('continue', `step ${checkpoint.step}`, run.stage)
  return { ...describeHandOff('train', 'the start: there is no checkpoint', run.stage), verb: 'continue' }
}

/**
 * Starts the next attempt of a run and returns once its supervisor has taken it up; it goes on when this process ends.
 * Raises UserErrors RUN_ACTIVE, where another has just started one, and SUPERVISOR_FAILED.
 */
export async function startRun(run: Run, world: RunsWorld): Promise<void> {
  const files = filesOf(run.folder)
  const before = newestAttempt(readState(run))?.number ?? 0
  if (world.chosenEngine) chooseEngine(run, world.chosenEngine)
  const changes = new FileChanges(files.supervisor)
  try {
    const supervisor = await world.startSupervisor(run.folder, before + 1, files.supervisorLog)
    const journal = supervisorJournal(files.supervisor)
    const hasStarted = () => journal.next().some((event) => event.attempt > before && (event.event === 'ended' || isTakenUp(event)))
    for (let isOver = false; !hasStarted(); isOver = supervisor.hasEnded()) {
      if (isOver) throw notTakenUp(run, world)
      await changes.within(startPollMs)
    }
  } finally {
    changes.close()
  }
}

function notTakenUp(run: Run, { engine }: RunsWorld): UserError {
  if (isSupervised(run)) return active(run, readState(run).step)
  const { supervisorLog } = filesOf(run.folder)
  const said = engine.logs(supervisorLog, 3).join(' ')
  return new UserError('SUPERVISOR_FAILED', `${run.id}: expected its supervisor to start it, got: ${said || 'nothing'}`, {
    hint: `see ${supervisorLog}`,
  })
}

/** The first line of an attempt is written before its job is started, without a handle. */
function isTakenUp(event: SupervisorEvent): boolean {
  return event.event === 'attempt' && event.handle !== null
}

/**
 * Goes on with a run from its newest complete checkpoint, or from its start where it has none; on other ranks where some are named.
 * Raises UserErrors RUN_ACTIVE, RUN_COMPLETE and GLOBAL_BATCH.
 */
export async function continueRun(run: Run, world: RunsWorld, ranks: { nodes?: number; processes?: number } = {}): Promise<HandOff> {
  refuseImported(run)
  const state = await settledState(run, world)
  const attempt = newestAttempt(state)
  const end = endOf(state)
  if (attempt && !end) {
    throw active(run, state.step)
  }
  if (end?.reason === 'completed') {
    throw new UserError('RUN_COMPLETE', `${run.id}: expected a run with steps left, got one that has done all ${state.steps}`, {
      hint: `stagewright advance ${run.id}, or stagewright branch ${run.id} --set steps=…`,
      exitCode: 1,
    })
  }
  const checkpoint = checkpointsOf(run).at(-1)
  if (checkpoint) await verifyCheckpoint(checkpoint)
  world.python()
  if (Object.keys(ranks).length > 0) chooseRanks(run, ranks)
  await startRun(run, world)
  return goingOn(run)
}

/** Raises UserError RUN_IMPORTED for the log of another tool, which has neither weights nor settings to train with. */
export function refuseImported({ id, identity }: Run): void {
  if (identity.verb !== 'import') return
  throw new UserError('RUN_IMPORTED', `${id}: expected a run that was trained here, got a log of another tool`, {
    hint: 'it can be looked at, compared and exported',
  })
}

function active(run: Run, step: number): UserError {
  return new UserError('RUN_ACTIVE', `${run.id}: expected a run that has ended, got one that trains (step ${step})`, {
    hint: `stagewright attach ${run.id}`,
  })
}

/** A new run from a run's checkpoint with changed settings: weights, moving average and optimiser state go along. */
export async function branchRun(parent: Run, at: number | 'best' | undefined, changed: StageSide, world: RunsWorld): Promise<Prepared> {
  const checkpoint = findCheckpoint(parent, at)
  await verifyCheckpoint(checkpoint)
  const raw = weightsOf(parent, checkpoint, 'raw')
  // Adapters go on beside the base they were trained beside; `model/` holds them merged already.
  const base = checkpoint.hasAdapters && changed.stage.lora.rank !== null ? parent.identity.inputs.weights : raw.path
  const stage = stageSchema.parse({ ...changed.stage, init: { ...changed.stage.init, weights: base, use: 'raw' } })
  const prepared = await prepareRun(
    { ...changed, stage: withVaeOf(parent, stage) },
    { verb: 'branch', state: checkpoint.folder, recipe: parent.identity.recipe, parent: raw.parent },
    world,
  )
  return { ...prepared, handOff: describeHandOff('branch', `${parent.id}@${checkpoint.step}`, stage) }
}

/** The next stage, from a run's weights alone. */
export async function advanceRun(
  parent: Run,
  next: StageSide,
  use: Stage['init']['use'],
  at: number | 'best' | undefined,
  world: RunsWorld,
): Promise<Prepared> {
  const checkpoint = findCheckpoint(parent, at ?? (use === 'best' ? 'best' : undefined))
  await verifyCheckpoint(checkpoint)
  const stage = stageSchema.parse({ ...next.stage, init: { ...next.stage.init, weights: `${parent.id}@${checkpoint.step}`, use } })
  const earlier = next.stage.kind !== 'vae' && parent.stage.kind === 'vae'
  const withWeights = earlier
    ? stageSchema.parse({ ...next.stage, vae: { ...next.stage.vae, weights: `${parent.id}@${checkpoint.step}` } })
    : withVaeOf(parent, stage)
  const prepared = await prepareRun({ ...next, stage: withWeights }, { verb: 'advance', recipe: parent.identity.recipe }, world)
  const handOff = describeHandOff('advance', `${parent.id}@${checkpoint.step}`, withWeights)
  const merged = ['adapters merged into the weights they were trained beside']
  return { ...prepared, handOff: checkpoint.hasAdapters ? { ...handOff, carried: [...handOff.carried, ...merged] } : handOff }
}

/** `stage:NAME` of an autoencoder means the one the parent trained with. */
function withVaeOf(parent: Run, stage: Stage): Stage {
  const inherited = parent.identity.inputs.vae
  if (inherited === null || !(stage.vae.weights === null || stage.vae.weights.startsWith('stage:'))) return stage
  return { ...stage, vae: { ...stage.vae, weights: inherited } }
}
