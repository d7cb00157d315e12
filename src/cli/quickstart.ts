import type { CommandModule } from 'yargs'
import type { QuickstartArguments } from './quickstart-run.ts'
import { runOptions, type TrainingWorld } from './run-world.ts'

/** `stagewright quickstart`. */
export function quickstartCommand(world: TrainingWorld): CommandModule<object, QuickstartArguments> {
  return {
    command: 'quickstart',
    describe: 'make clips, train three stages on them, and check what was learnt',
    builder: (yargs) =>
      yargs
        .option('data', { type: 'string', describe: 'your own clips instead of the made ones' })
        .option('seed', { type: 'number', default: 0, describe: 'seed of clips, weights and noise' })
        .option('short', { type: 'boolean', default: false, describe: 'the same path in a few steps, without the checks of quality' })
        .options(runOptions),
    handler: async (args) => (await import('./quickstart-run.ts')).runQuickstart(args, world),
  }
}
