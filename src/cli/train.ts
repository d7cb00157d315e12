import type { CommandModule } from 'yargs'
import { engineOptions } from './engine-options.ts'
import { runOptions, type TrainingWorld } from './run-world.ts'
import type { TrainArguments } from './train-run.ts'

/** `stagewright train RECIPE[#STAGE]`. */
export function trainCommand(world: TrainingWorld): CommandModule<object, TrainArguments> {
  return {
    command: 'train <recipe>',
    describe: 'train the stages of a recipe in order, or one stage; Ctrl-C stops with a checkpoint',
    builder: (yargs) =>
      yargs
        .positional('recipe', { type: 'string', demandOption: true, describe: 'FILE.yaml, FILE.yaml#STAGE or v1.3/STAGE' })
        .option('data', { type: 'string', describe: 'clips of stages that name none: a folder or a list file' })
        .option('set', {
          type: 'string',
          array: true,
          nargs: 1,
          default: [] as string[],
          describe: 'path=value on top, or STAGE:path=value',
        })
        .option('detach', { type: 'boolean', default: false, describe: 'return at once; `attach` follows' })
        .option('tiny', { type: 'boolean', default: false, describe: 'a small model and a few steps, everything else as it is' })
        .option('dryRun', { type: 'boolean', default: false, describe: 'print what each stage would be started with, and start nothing' })
        .option('until', { type: 'string', describe: 'last stage to train' })
        .option('prepare', { type: 'boolean', default: false, describe: 'make the run of one stage and start nothing; see `launch`' })
        .option('queue', { type: 'boolean', default: false, describe: 'let it wait for its turn on this machine; see `queue`' })
        .options({ ...engineOptions, ...runOptions }),
    handler: async (args) => (await import('./train-run.ts')).runTrain(args, world),
  }
}
