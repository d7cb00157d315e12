import type { CommandModule } from 'yargs'
import type { ReplayArguments } from './replay-run.ts'
import { runOptions, type TrainingWorld } from './run-world.ts'

/** `stagewright replay RUN`. */
export function replayCommand(world: TrainingWorld): CommandModule<object, ReplayArguments> {
  return {
    command: 'replay <run>',
    describe: 'train a run again with its live changes at the same steps, and say whether the numbers are the same',
    builder: (yargs) =>
      yargs
        .positional('run', { type: 'string', demandOption: true, describe: 'id of a run that has ended, its beginning, or latest' })
        .option('json', { type: 'boolean', default: false, describe: 'the verdict as JSON, nothing else' })
        .options(runOptions)
        .epilogue('Exit codes: 0 identical or within noise, 1 diverged.'),
    handler: async (args) => (await import('./replay-run.ts')).runReplay(args, world),
  }
}
