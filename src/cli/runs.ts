import type { CommandModule } from 'yargs'
import { runOptions, type TrainingWorld } from './run-world.ts'
import type { RunsArguments } from './runs-run.ts'

/** `stagewright runs`. */
export function runsCommand(world: TrainingWorld): CommandModule<object, RunsArguments> {
  return {
    command: 'runs',
    describe: 'every run under the runs folder, with where it stands',
    builder: (yargs) => yargs.option('json', { type: 'boolean', default: false, describe: 'as JSON' }).options(runOptions),
    handler: async (args) => (await import('./runs-run.ts')).printRuns(args, world),
  }
}
