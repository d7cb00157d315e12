import type { CommandModule } from 'yargs'
import type { MonitorArguments } from './monitor-run.ts'
import { runOptions, type TrainingWorld } from './run-world.ts'

/** `stagewright monitor RUN`. */
export function monitorCommand(world: TrainingWorld): CommandModule<object, MonitorArguments> {
  return {
    command: 'monitor <run>',
    describe: 'what the rules that watch a run say of it: spikes, divergence, plateaus, dead gradients, slow steps, …',
    builder: (yargs) =>
      yargs
        .positional('run', { type: 'string', demandOption: true, describe: 'id of a run, its beginning, or latest' })
        .option('dry', { type: 'boolean', default: false, describe: 'only what is in the journal now; does not follow a run that trains' })
        .option('set', {
          type: 'string',
          array: true,
          nargs: 1,
          default: [] as string[],
          describe: 'other thresholds, such as incidents.watch.lossSpike=5; null switches a rule off',
        })
        .option('rules', { type: 'boolean', default: false, describe: 'also every rule with its setting, reason and source' })
        .option('json', { type: 'boolean', default: false, describe: 'as JSON; implies --dry' })
        .options(runOptions)
        .epilogue('Exit code 1 where a rule alerts; advice alone is 0. Over a finished run nothing is changed or written.'),
    handler: async (args) => (await import('./monitor-run.ts')).runMonitor(args, world),
  }
}
