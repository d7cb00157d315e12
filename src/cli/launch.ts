import type { CommandModule } from 'yargs'
import type { LaunchArguments } from './launch-run.ts'
import { runOptions, type TrainingWorld } from './run-world.ts'

/** `stagewright launch RUN`: several machines without a scheduler of ours. */
export function launchCommand(world: TrainingWorld): CommandModule<object, LaunchArguments> {
  return {
    command: 'launch <run>',
    describe: 'start a run over several machines by hand, or render it for Kubernetes or SkyPilot',
    builder: (yargs) =>
      yargs
        .positional('run', { type: 'string', demandOption: true, describe: 'a run, made by train --prepare or broken off' })
        .option('rdzv', { type: 'string', describe: 'HOST:PORT of the first machine, where the launchers meet' })
        .option('nodes', { type: 'number', describe: 'machines; must be what the run says' })
        .option('nodeRank', { type: 'number', describe: 'start this machine’s launcher: 0 first; without it, print the line of each' })
        .option('render', { choices: ['kubernetes', 'jobset', 'skypilot'] as const, describe: 'print a manifest; it is not run here' })
        .option('image', { type: 'string', describe: 'for a manifest: container image with the trainer’s packages' })
        .option('storage', { type: 'string', describe: 'for a manifest: volume claim or bucket that holds the runs' })
        .option('accelerator', { type: 'string', default: 'H100', describe: 'for SkyPilot: kind of GPU' })
        .option('wait', { type: 'number', default: 600, describe: 'seconds another machine waits for the first' })
        .option('json', { type: 'boolean', default: false, describe: 'the lines as JSON' })
        .options(runOptions),
    handler: async (args) => (await import('./launch-run.ts')).runLaunch(args, world),
  }
}
