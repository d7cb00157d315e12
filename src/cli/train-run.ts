import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { loadRecipe } from '../config/recipe.ts'
import { namesStage } from '../config/set-option.ts'
import { readConfigFile } from '../config/source.ts'
import { UserError } from '../domain/errors.ts'
import type { Stage } from '../domain/stage/schema.ts'
import { parseAddress } from '../runs/address.ts'
import { type AddressContext, resolveSide, resolveSides } from '../runs/addresses.ts'
import { chainPlan, withData } from '../runs/chain.ts'
import { chainOf } from '../runs/chain-driver.ts'
import { exampleJob } from '../runs/job.ts'
import { finishedRuns, type Prepared, prepareRun, startRun } from '../runs/launch.ts'
import { refuseUntrainable } from '../runs/osplan-request.ts'
import { tinyStage } from '../runs/tiny.ts'
import type { RunsWorld } from '../runs/world.ts'
import { continueChain } from './chain-actions.ts'
import { chosenEngine } from './engine-chosen.ts'
import type { EngineOptions } from './engine-options.ts'
import { runsFolderOf, upstreamCheckoutOf } from './folders.ts'
import { announced, exitCodeOf, follow } from './follow.ts'
import { printHandOff } from './hand-off-text.ts'
import type { RunOptions, TrainingWorld } from './run-world.ts'

export interface TrainArguments extends RunOptions, EngineOptions {
  recipe: string
  data: string | undefined
  set: string[]
  detach: boolean
  tiny: boolean
  until: string | undefined
  dryRun: boolean
  queue: boolean
  prepare: boolean
}

/** Trains a stage or a chain. */
export async function runTrain(args: TrainArguments, world: TrainingWorld): Promise<void> {
  if (args.queue) return trainInTurn(args, world)
  const runs = await world.runsWorld({
    runsFolder: runsFolderOf(args.runs, world),
    pythonEnv: args.pythonEnv,
    chosenEngine: chosenEngine(args, world),
  })
  runs.python()
  refuseMissingClips(args.data, world, runs)
  const parsed = parseAddress(args.recipe)
  if (parsed.kind === 'recipe' && parsed.stage === undefined) {
    await trainRecipe(parsed.file, args, world, runs)
    return
  }
  const context = { cwd: world.cwd, runsFolder: runs.runsFolder, upstreamCheckout: upstreamCheckoutOf(undefined, world), set: args.set }
  const side = withData(await resolveSide(args.recipe, context), args.data)
  const wanted = args.tiny ? tinyStage(side) : side
  if (args.dryRun) return printStart([wanted.stage], world, runs)
  await refuseUntrainable([wanted.stage], runs)
  const recipe = parsed.kind === 'recipe' ? { file: parsed.file, stage: side.stage.name } : null
  const before = parsed.kind === 'recipe' ? await stagesBefore(side.stage, parsed.file, args, context) : []
  const prepared = await prepareRun(wanted, { verb: 'train', recipe, earlier: await finishedRuns(before, runs) }, runs)
  printHandOff(prepared.handOff, world)
  if (args.prepare) {
    world.stdout.write(`run ${prepared.run.id}\n`)
    return
  }
  await finish(prepared, args, world, runs)
}

/** Clips that are not there are told before a run is made of them; machines of a cluster may see other folders than this one. */
function refuseMissingClips(data: string | undefined, { cwd }: TrainingWorld, { chosenEngine: engine }: RunsWorld): void {
  if (data === undefined || engine?.kind === 'slurm' || existsSync(resolve(cwd, data))) return
  throw new UserError('DATA_MISSING', `--data ${data}: expected a folder, a list file or an annotation, got nothing there`, {
    hint: 'check the path; it counts from the folder you are in',
  })
}

/** The stages of a recipe before one of it, as the whole recipe would train them. */
async function stagesBefore({ name }: Stage, file: string, { data, set }: TrainArguments, context: AddressContext): Promise<Stage[]> {
  const stages = (await resolveSides(file, { ...context, set: set.filter(namesStage) })).map((each) => withData(each, data).stage)
  return stages.slice(
    0,
    stages.findIndex((stage) => stage.name === name),
  )
}

/** `--queue`: what the queue's own command does. */
async function trainInTurn(args: TrainArguments, world: TrainingWorld): Promise<void> {
  const chosen = chosenEngine(args, world)
  if (chosen && chosen.kind !== 'local') {
    throw new UserError('QUEUE_ENGINE', `--queue: expected this machine, got --engine ${args.engine ?? chosen.kind}`, {
      hint: 'a cluster has a queue of its own: leave --queue out',
    })
  }
  if (args.until !== undefined) {
    throw new UserError('QUEUE_UNTIL', '--queue: expected whole recipes or single stages, got --until', {
      hint: 'add the stages you want one by one',
    })
  }
  const { queueAdd } = await import('./queue-run.ts')
  await queueAdd({ ...args, id: 0, after: [], share: false, kill: false, json: false, detect: false }, world)
}

/** What stages would be started with; a run's folder takes the place of the example's. */
function printStart(stages: readonly Stage[], world: TrainingWorld, runs: RunsWorld): void {
  world.stdout.write(stages.map((stage) => runs.engine.render(exampleJob(stage, runs))).join('\n'))
}

async function finish({ run }: Prepared, args: TrainArguments, world: TrainingWorld, runs: RunsWorld): Promise<void> {
  const start = () => announced(run, () => startRun(run, runs), world)
  if (args.detach) {
    await start()
    world.stdout.write(`it trains by itself. Follow it with: stagewright attach ${run.id}\n`)
    return
  }
  world.setExitCode(exitCodeOf(await follow(run, { ctrlC: 'stops', start }, world, runs)))
}

/** The stages of a recipe, trained by a driver of their own; this process only watches. */
async function trainRecipe(file: string, args: TrainArguments, world: TrainingWorld, runs: RunsWorld): Promise<void> {
  const recipe = loadRecipe(file, { readFile: (path) => readConfigFile(resolve(world.cwd, path)), set: args.set })
  if (args.prepare) {
    throw new UserError('PREPARE_CHAIN', `${file}: expected one stage to prepare, got a whole recipe`, {
      hint: `name the stage: ${file}#STAGE`,
    })
  }
  const plan = chainPlan(recipe, { data: args.data, until: args.until })
  if (args.dryRun) return printStart(plan.stages, world, runs)
  await refuseUntrainable(plan.stages, runs)
  const chain = chainOf(plan, runs)
  world.stdout.write(`chain ${chain.id}\n`)
  await continueChain(chain, args.detach, world, runs)
}
