import type { CommandModule } from 'yargs'
import type { LineageArguments } from './lineage-run.ts'
import { runOptions, type TrainingWorld } from './run-world.ts'

/** `stagewright lineage [RUN]`. */
export function lineageCommand(world: TrainingWorld): CommandModule<object, LineageArguments> {
  return {
    command: 'lineage [run]',
    describe: 'the tree of runs: which starts from which, what each changed and gained',
    builder: (yargs) =>
      yargs
        .positional('run', { type: 'string', describe: 'a run of the tree to draw; every tree else' })
        .option('json', { type: 'boolean', default: false, describe: 'as JSON' })
        .options(runOptions),
    handler: async (args) => (await import('./lineage-run.ts')).printLineage(args, world),
  }
}
