import { withSetOptions } from '../config/overlay.ts'
import { loadRecipe } from '../config/recipe.ts'
import { readConfigFile } from '../config/source.ts'
import { UserError } from '../domain/errors.ts'
import { type PhaseCost, phaseCosts } from '../domain/run/phase-costs.ts'
import { endOf, fullDiskText, newestAttempt, type RunState, waitingFor } from '../domain/run/state.ts'
import { bareSide, type StageSide } from '../domain/stage/origin.ts'
import { resolveSide } from '../runs/addresses.ts'
import { sendCommand, stopRun } from '../runs/control.ts'
import { groupRate } from '../runs/group-rate.ts'
import { advanceRun, branchRun, continueRun, type Prepared, startRun } from '../runs/launch.ts'
import { settledState } from '../runs/supervise.ts'
import type { RunsWorld } from '../runs/world.ts'
import { type Chain, findChain } from '../store/chains.ts'
import { discardRun, findRun, type Run, readState } from '../store/runs.ts'
import { bytesText } from './bytes-text.ts'
import { attachToChain, continueChain, showChain, stopChain } from './chain-actions.ts'
import { chosenEngine } from './engine-chosen.ts'
import type { EngineOptions } from './engine-options.ts'
import { runsFolderOf, upstreamCheckoutOf } from './folders.ts'
import { announced, exitCodeOf, follow, sayEnd } from './follow.ts'
import { printHandOff, printStart } from './hand-off-text.ts'
import { showIncident } from './incident-show.ts'
import { incidentsText } from './incident-text.ts'
import { brief, duration, waitingText } from './progress.ts'
import type { RunOptions, TrainingWorld } from './run-world.ts'
import { paintFor, writeJson } from './terminal.ts'

/** Arguments of the commands about one run; each command fills those it has. */
export interface RunArguments extends RunOptions, EngineOptions {
  run: string
  stage?: string
  changes?: string[]
  set?: string[]
  at?: string
  weights?: 'ema' | 'raw' | 'best'
  after?: string
  group?: string
  kill?: boolean
  why?: string
  detach?: boolean
  processes?: number
  nodes?: number
  json?: boolean
  incident?: number
}

const formatVersion = 1

/** `RUN@STEP` is the run and the step of `--at`. Raises UserError STEP_TWICE where both are given. */
function withStep(args: RunArguments): RunArguments {
  const [, run, at] = /^(.+)@(\d+|best)$/.exec(args.run) ?? []
  if (run === undefined || at === undefined) return args
  if (args.at === undefined) return { ...args, run, at }
  throw new UserError('STEP_TWICE', `${args.run} --at ${args.at}: expected one step, got two`, { hint: 'leave out --at' })
}

async function opened(args: RunArguments, world: TrainingWorld): Promise<{ run: Run; runs: RunsWorld }> {
  const runsFolder = runsFolderOf(args.runs, world)
  const run = findRun(runsFolder, args.run)
  return { run, runs: await world.runsWorld({ runsFolder, pythonEnv: args.pythonEnv, chosenEngine: chosenEngine(args, world) }) }
}

/** The chain that is meant, where it is one. */
async function chainMeant(args: RunArguments, world: TrainingWorld): Promise<{ chain: Chain; runs: RunsWorld } | undefined> {
  const runsFolder = runsFolderOf(args.runs, world)
  const chain = findChain(runsFolder, args.run)
  return chain && { chain, runs: await world.runsWorld({ runsFolder, pythonEnv: args.pythonEnv }) }
}

export async function runContinue(args: RunArguments, world: TrainingWorld): Promise<void> {
  const meant = await chainMeant(args, world)
  if (meant) return continueChain(meant.chain, args.detach ?? false, world, meant.runs)
  const { run, runs } = await opened(args, world)
  const attempt = (newestAttempt(readState(run))?.number ?? 0) + 1
  const ranks = { ...(args.processes ? { processes: args.processes } : {}), ...(args.nodes ? { nodes: args.nodes } : {}) }
  const start = async () => printHandOff(await continueRun(run, runs, ranks), world)
  await followUnlessDetached(run, args, world, runs, { start, fromAttempt: attempt })
}

export async function runBranch(given: RunArguments, world: TrainingWorld): Promise<void> {
  const args = withStep(given)
  const { run, runs } = await opened(args, world)
  const side = bareSide(run.id, run.stage)
  await startPrepared(await branchRun(run, stepOf(args.at), withSetOptions(side, args.set ?? []), runs), run, args, world, runs)
}

export async function runAdvance(given: RunArguments, world: TrainingWorld): Promise<void> {
  const args = withStep(given)
  const { run, runs } = await opened(args, world)
  const next = await nextStage(run, args, world, runs)
  await startPrepared(await advanceRun(run, next, args.weights ?? 'ema', stepOf(args.at), runs), run, args, world, runs)
}

async function nextStage(run: Run, args: RunArguments, world: TrainingWorld, runs: RunsWorld): Promise<StageSide> {
  const context = {
    cwd: world.cwd,
    runsFolder: runs.runsFolder,
    upstreamCheckout: upstreamCheckoutOf(undefined, world),
    set: args.set ?? [],
  }
  if (args.stage && /[#/.]/.test(args.stage)) return withParentData(await resolveSide(args.stage, context), run)
  const source = run.identity.recipe
  if (!source) {
    throw new UserError('ADVANCE_STAGE', `${run.id}: expected a run of a recipe, got one without`, {
      hint: 'name the next stage: FILE.yaml#STAGE',
    })
  }
  const recipe = loadRecipe(source.file, { readFile: readConfigFile, set: args.set ?? [] })
  const place = args.stage
    ? recipe.stages.findIndex(({ stage }) => stage.name === args.stage)
    : recipe.stages.findIndex(({ stage }) => stage.name === source.stage) + 1
  const next = recipe.stages[place]
  if (!next) {
    const names = recipe.stages.map(({ stage }) => stage.name).join(', ')
    throw new UserError('ADVANCE_STAGE', `${source.file}: expected a stage ${args.stage ?? `after ${source.stage}`}, got ${names}`, {
      hint: 'name another stage',
    })
  }
  return withParentData(next, run)
}

function withParentData(side: StageSide, run: Run): StageSide {
  if (side.stage.data.source !== null || run.identity.inputs.data === null) return side
  return { ...side, stage: { ...side.stage, data: { ...side.stage.data, source: run.identity.inputs.data } } }
}

async function startPrepared(prepared: Prepared, parent: Run, args: RunArguments, world: TrainingWorld, runs: RunsWorld): Promise<void> {
  const { run } = prepared
  if (!(await printStart(prepared, parent, world, runs))) {
    discardRun(run)
    world.setExitCode(1)
    return
  }
  const start = () => announced(run, () => startRun(run, runs), world)
  await followUnlessDetached(run, args, world, runs, { start, fromAttempt: 1 })
}

async function followUnlessDetached(
  run: Run,
  args: RunArguments,
  world: TrainingWorld,
  runs: RunsWorld,
  how: { start: () => Promise<void>; fromAttempt: number },
): Promise<void> {
  if (args.detach) {
    await how.start()
    world.stdout.write(`it trains by itself. Follow it with: stagewright attach ${run.id}\n`)
    return
  }
  world.setExitCode(exitCodeOf(await follow(run, { ctrlC: 'stops', ...how }, world, runs)))
}

export async function runAttach(args: RunArguments, world: TrainingWorld): Promise<void> {
  const meant = await chainMeant(args, world)
  if (meant) return attachToChain(meant.chain, world, meant.runs)
  const { run, runs } = await opened(args, world)
  await settledState(run, runs)
  world.setExitCode(exitCodeOf(await follow(run, { ctrlC: 'leaves' }, world, runs)))
}

export async function runStop(args: RunArguments, world: TrainingWorld): Promise<void> {
  const meant = await chainMeant(args, world)
  if (meant) {
    await stopChain(meant.chain, args.kill ?? false, meant.runs)
    world.stdout.write(`${meant.chain.id}: ${args.kill ? 'killed' : 'stops at the next step, with a checkpoint'}\n`)
    return
  }
  const { run, runs } = await opened(args, world)
  const after = stepAfter(args)
  await stopRun(
    run,
    {
      kill: args.kill ?? false,
      ...(after === undefined ? {} : { after }),
      ...(args.why === undefined ? {} : { reason: args.why }),
    },
    runs,
  )
  world.stdout.write(
    args.kill ? `${run.id}: killed\n` : `${run.id}: ${after === undefined ? 'stops at the next step' : `stops after step ${after}`}\n`,
  )
}

/** The step of `--after`. Raises UserErrors AFTER_FORM, and AFTER_KILL where the run would be killed at once. */
function stepAfter({ after, kill }: RunArguments): number | undefined {
  if (after === undefined) return undefined
  if (!/^\d+$/.test(after)) throw new UserError('AFTER_FORM', `--after: expected a step, got ${after}`, { hint: 'for example --after 500' })
  if (kill) throw new UserError('AFTER_KILL', '--after --kill: expected one of them, got both', { hint: 'leave out --kill' })
  return Number(after)
}

export async function runPause(args: RunArguments, world: TrainingWorld): Promise<void> {
  await tell(args, world, 'pause')
}

export async function runCheckpoint(args: RunArguments, world: TrainingWorld): Promise<void> {
  await tell(args, world, 'checkpoint')
}

export async function runMeasure(args: RunArguments, world: TrainingWorld): Promise<void> {
  await tell(args, world, 'measure')
}

export async function runThaw(args: RunArguments, world: TrainingWorld): Promise<void> {
  await tell(args, world, 'thaw')
}

async function tell(args: RunArguments, world: TrainingWorld, name: 'pause' | 'checkpoint' | 'measure' | 'thaw'): Promise<void> {
  const { run, runs } = await opened(args, world)
  const { step } = await sendCommand(run, { name, reason: args.why ?? null }, runs)
  world.stdout.write(`${run.id}: ${name} before step ${step}\n`)
}

export async function runSet(args: RunArguments, world: TrainingWorld): Promise<void> {
  const { run, runs } = await opened(args, world)
  for (const change of args.changes ?? []) {
    const at = change.indexOf('=')
    if (at < 1)
      throw new UserError('SETTING_FORM', `${change}: expected path=value, got no =`, {
        hint: 'for example learningRate=5e-6 or learningRate=*0.5',
      })
    const [path, text] = [change.slice(0, at), change.slice(at + 1)]
    const ask = args.group === undefined ? ({ name: 'set', path, value: parsedValue(text) } as const) : ofGroup(run, args.group, path, text)
    const { step, effective } = await sendCommand(run, { ...ask, reason: args.why ?? null }, runs)
    world.stdout.write(`${run.id}: ${ask.path} is ${JSON.stringify(effective)} from step ${step} on\n`)
  }
}

function ofGroup(run: Run, group: string, path: string, text: string): ReturnType<typeof groupRate> {
  if (path === 'learningRate') return groupRate(run, readState(run), group, text)
  throw new UserError('GROUP_SETTING', `${path} --group ${group}: expected learningRate, which groups may have of their own, got ${path}`, {
    hint: 'leave out --group',
  })
}

/** A value as typed: JSON where it is some, else the text (`*0.5`, a name). */
function parsedValue(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}

export async function runShow(args: RunArguments, world: TrainingWorld): Promise<void> {
  const meant = await chainMeant(args, world)
  if (meant) return showChain(meant.chain, args.json ?? false, world, meant.runs)
  const { run, runs } = await opened(args, world)
  const state = await settledState(run, runs)
  if (args.incident !== undefined) return showIncident(run, state, args.incident, args.json ?? false, world)
  if (args.json) {
    writeJson(world.stdout, {
      formatVersion,
      run: run.identity,
      state: stateWord(state),
      end: endOf(state) ?? null,
      ...withoutPoints(state),
      phaseCosts: phaseCosts(state),
      stage: run.stage,
    })
    return
  }
  const { bold, dim } = paintFor(world.stdout, world.env)
  const held = state.heldOut
  const [first, last] = [held[0], held.at(-1)]
  const parent = run.identity.parent
  const rows: [string, string][] = [
    ['state', stateWord(state)],
    ['stage', `${run.stage.name} (${run.stage.kind})`],
    ['from', parent ? `${parent.run}@${parent.step} (${parent.use})` : (run.identity.inputs.weights ?? 'random weights')],
    ['step', `${state.step} of ${state.steps ?? run.stage.steps}`],
    ['held-out', first && last ? `${brief((first.ema ?? first.raw).loss)} → ${brief((last.ema ?? last.raw).loss)}` : '–'],
    ['attempts', String(state.attempts.length)],
    ['checkpoints', state.checkpoints.map(({ step }) => step).join(', ') || '–'],
    [
      'changes',
      state.changes.map(({ step, path, effective }) => `${path} = ${JSON.stringify(effective)} from step ${step}`).join('; ') || '–',
    ],
    ...phaseRows(phaseCosts(state)),
    ['incidents', incidentsText(state.incidents)],
    ['folder', run.folder],
  ]
  world.stdout.write(`${bold(run.id)}\n${rows.map(([name, text]) => `  ${dim(name.padEnd(12))}${text}\n`).join('')}`)
  const end = endOf(state)
  if (end) sayEnd(run, end, world, runs)
}

/** One row for each phase; none for a run that has but one. */
function phaseRows(costs: readonly PhaseCost[]): [string, string][] {
  if (costs.length < 2) return []
  return costs.map(({ index, from, to, parameters, secondsPerStep, memoryBytes, proof }) => {
    const parts = [
      ...(parameters === undefined ? [] : [`trains ${parameters.toLocaleString('en')}`]),
      `${brief(secondsPerStep)} s a step`,
      ...(memoryBytes === undefined ? [] : [bytesText(memoryBytes)]),
      ...(proof ? [proofText(proof)] : []),
    ]
    return [`phase ${index + 1}`, `steps ${from}–${to}: ${parts.join(', ')}`]
  })
}

function proofText({ frozen, frozenChanged, trainable, trainableUnmoved }: NonNullable<PhaseCost['proof']>): string {
  if (frozenChanged.length > 0) return `${frozenChanged.length} of ${frozen} frozen tensors changed`
  return `${frozen} frozen tensors bit for bit the same, ${trainable - trainableUnmoved.length} of ${trainable} moved`
}

function withoutPoints({ points, ...rest }: RunState): Omit<RunState, 'points'> & { steps: number | undefined; points: number } {
  return { ...rest, points: points.length }
}

/** One word for where a run stands. */
export function stateWord(state: RunState): string {
  const end = endOf(state)
  if (end) return end.reason
  if (!newestAttempt(state)) return 'new'
  const waiting = waitingFor(newestAttempt(state))
  if (waiting) return waitingText(waiting)
  const fullDisk = newestAttempt(state)?.fullDisk
  if (fullDisk) return fullDiskText(fullDisk)
  const age = state.lastHeardAt === undefined ? '' : `, last heard ${duration(Date.now() / 1000 - state.lastHeardAt)} ago`
  return state.steps === undefined ? `starting${age}` : `training${age}`
}

function stepOf(text: string | undefined): number | 'best' | undefined {
  if (text === undefined || text === 'best') return text
  const step = Number(text)
  if (Number.isInteger(step) && step >= 0) return step
  throw new UserError('STEP_FORM', `--at: expected a step or best, got ${text}`)
}
