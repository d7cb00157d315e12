import type { CommandModule } from 'yargs'
import { runOptions, type TrainingWorld } from './run-world.ts'
import type { WebArguments } from './web-run.ts'

/** `stagewright web`. */
export function webCommand(world: TrainingWorld): CommandModule<object, WebArguments> {
  return {
    command: 'web',
    describe: 'a page that shows every run live, on this machine only',
    builder: (yargs) =>
      yargs
        .option('port', { type: 'number', default: 7333, describe: 'port on loopback; 0 takes any free one' })
        .option('newTokens', { type: 'boolean', default: false, describe: 'addresses given out before stop working' })
        .option('json', { type: 'boolean', default: false, describe: 'the addresses as JSON' })
        .options(runOptions)
        .epilogue(
          [
            'Prints two addresses: one to watch and control, one that can only watch. Ctrl-C ends the page; runs go on.',
            'From another machine: ssh -L 7333:127.0.0.1:7333 HOST, then open the same address.',
          ].join('\n'),
        ),
    handler: async (args) => (await import('./web-run.ts')).runWeb(args, world),
  }
}
