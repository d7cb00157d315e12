import type { CommandModule } from 'yargs'
import { engineOptions } from './engine-options.ts'
import type { PlanArguments } from './plan-run.ts'
import { runOptions, type TrainingWorld } from './run-world.ts'

/** `stagewright plan RECIPE[#STAGE]`. */
export function planCommand(world: TrainingWorld): CommandModule<object, PlanArguments> {
  return {
    command: 'plan <recipe>',
    describe: 'what training would do: parameters, learning rate, data, memory, where it ends and why',
    builder: (yargs) =>
      yargs
        .positional('recipe', { type: 'string', demandOption: true, describe: 'FILE.yaml, FILE.yaml#STAGE or v1.3/STAGE' })
        .option('data', { type: 'string', describe: 'clips of stages that name none' })
        .option('set', { type: 'string', array: true, nargs: 1, default: [] as string[], describe: 'path=value on top' })
        .option('fit', {
          type: 'boolean',
          default: false,
          describe: 'estimate memory and time of the largest bucket, and list the cheapest changes that need less',
        })
        .option('probe', {
          type: 'boolean',
          default: false,
          describe: 'make three steps of the largest bucket here and say what they took',
        })
        .option('json', { type: 'boolean', default: false, describe: 'as JSON' })
        .options({ ...engineOptions, ...runOptions }),
    handler: async (args) => (await import('./plan-run.ts')).runPlan(args, world),
  }
}
