import { resolve } from 'node:path'
import { loadRecipe } from '../config/recipe.ts'
import { readConfigFile } from '../config/source.ts'
import { UserError } from '../domain/errors.ts'
import type { RunEnd } from '../domain/run/state.ts'
import { parseAddress } from '../runs/address.ts'
import { resolveSide } from '../runs/addresses.ts'
import { trainChain, withData } from '../runs/chain.ts'
import { type Prepared, prepareRun, startRun } from '../runs/launch.ts'
import { tinyStage } from '../runs/tiny.ts'
import type { RunsWorld } from '../runs/world.ts'
import { runsFolderOf, upstreamCheckoutOf } from './folders.ts'
import { announced, exitCodeOf, follow } from './follow.ts'
import { printHandOff } from './hand-off-text.ts'
import type { RunOptions, TrainingWorld } from './run-world.ts'

export interface TrainArguments extends RunOptions {
  recipe: string
  data: string | undefined
  set: string[]
  detach: boolean
  tiny: boolean
  until: string | undefined
}

/** Trains a stage or a chain. */
export async function runTrain(args: TrainArguments, world: TrainingWorld): Promise<void> {
  const runs = await world.runsWorld({ runsFolder: runsFolderOf(args.runs, world), pythonEnv: args.pythonEnv })
  runs.python()
  const parsed = parseAddress(args.recipe)
  if (parsed.kind === 'recipe' && parsed.stage === undefined) {
    await trainRecipe(parsed.file, args, world, runs)
    return
  }
  const context = { cwd: world.cwd, runsFolder: runs.runsFolder, upstreamCheckout: upstreamCheckoutOf(undefined, world), set: args.set }
  const side = withData(await resolveSide(args.recipe, context), args.data)
  const wanted = args.tiny ? tinyStage(side) : side
  const recipe = parsed.kind === 'recipe' ? { file: parsed.file, stage: side.stage.name } : null
  const prepared = await prepareRun(wanted, { verb: 'train', recipe }, runs)
  printHandOff(prepared.handOff, world)
  await finish(prepared, args, world, runs)
}

async function finish({ run }: Prepared, args: TrainArguments, world: TrainingWorld, runs: RunsWorld): Promise<void> {
  const start = () => announced(run, () => startRun(run, runs), world)
  if (args.detach) {
    await start()
    world.stdout.write(`it trains by itself. Follow it with: stagewright attach ${run.id}\n`)
    return
  }
  world.setExitCode(exitCodeOf(await follow(run, { owns: true, start }, world, runs)))
}

async function trainRecipe(file: string, args: TrainArguments, world: TrainingWorld, runs: RunsWorld): Promise<void> {
  if (args.detach) {
    throw new UserError('DETACH_CHAIN', `${file}: expected one stage to detach from, got a whole recipe`, {
      hint: `name the stage: ${file}#STAGE --detach`,
    })
  }
  const recipe = loadRecipe(file, { readFile: (path) => readConfigFile(resolve(world.cwd, path)), set: args.set })
  let last: RunEnd | undefined
  const { end } = await trainChain(
    recipe,
    { data: args.data, ...(args.until === undefined ? {} : { until: args.until }) },
    {
      before: async (_, prepared) => {
        if (prepared.isReused) world.stdout.write(`${prepared.run.stage.name}: done already by ${prepared.run.id}\n`)
        else if (prepared.isTraining) world.stdout.write(`${prepared.run.stage.name}: trains already as ${prepared.run.id}\n`)
        else printHandOff(prepared.handOff, world)
        return true
      },
      follow: async (run, start) => {
        last = await follow(run, { owns: true, start: () => announced(run, start, world) }, world, runs)
        return last
      },
    },
    runs,
  )
  world.setExitCode(exitCodeOf(end ?? last))
}
