import { withSetOptions } from '../config/overlay.ts'
import { loadRecipe } from '../config/recipe.ts'
import { readConfigFile } from '../config/source.ts'
import { UserError } from '../domain/errors.ts'
import { newestAttempt } from '../domain/run/state.ts'
import { bareSide, type StageSide } from '../domain/stage/origin.ts'
import { resolveSide } from '../runs/addresses.ts'
import { advanceRun, branchRun, continueRun, type Prepared, startRun } from '../runs/launch.ts'
import { settledState } from '../runs/supervise.ts'
import type { RunsWorld } from '../runs/world.ts'
import { discardRun, type Run, readState } from '../store/runs.ts'
import { attachToChain, continueChain } from './chain-actions.ts'
import { upstreamCheckoutOf } from './folders.ts'
import { announced, exitCodeOf, follow } from './follow.ts'
import { printHandOff, printStart } from './hand-off-text.ts'
import { chainMeant, opened, type RunArguments } from './run-arguments.ts'
import type { TrainingWorld } from './run-world.ts'

/** `RUN@STEP` is the run and the step of `--at`. Raises UserError STEP_TWICE where both are given. */
function withStep(args: RunArguments): RunArguments {
  const [, run, at] = /^(.+)@(\d+|best)$/.exec(args.run) ?? []
  if (run === undefined || at === undefined) return args
  if (args.at === undefined) return { ...args, run, at }
  throw new UserError('STEP_TWICE', `${args.run} --at ${args.at}: expected one step, got two`, { hint: 'leave out --at' })
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

function stepOf(text: string | undefined): number | 'best' | undefined {
  if (text === undefined || text === 'best') return text
  const step = Number(text)
  if (Number.isInteger(step) && step >= 0) return step
  throw new UserError('STEP_FORM', `--at: expected a step or best, got ${text}`)
}
