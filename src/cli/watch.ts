import type { CommandModule } from 'yargs'
import { runOptions, type TrainingWorld } from './run-world.ts'
import type { WatchArguments } from './watch-run.ts'

/** `stagewright watch`. */
export function watchCommand(world: TrainingWorld): CommandModule<object, WatchArguments> {
  return {
    command: 'watch [run..]',
    describe: 'follow runs: one with its curve, several as a table; Ctrl-C only leaves',
    builder: (yargs) =>
      yargs
        .positional('run', { type: 'string', array: true, default: [], describe: 'ids, their beginnings, or latest; all that train else' })
        .option('once', { type: 'boolean', default: false, describe: 'the table as it is now, and no more' })
        .option('json', { type: 'boolean', default: false, describe: 'with --once: as JSON' })
        .options(runOptions)
        .epilogue('Ends once every run has ended. Away from a terminal a line is printed whenever a run has changed its state.') as never,
    handler: async (args) => (await import('./watch-run.ts')).runWatch(args, world),
  }
}
