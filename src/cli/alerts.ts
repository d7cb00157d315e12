import type { CommandModule } from 'yargs'
import type { AlertArguments } from './alerts-run.ts'
import { runOptions, type TrainingWorld } from './run-world.ts'

/** `stagewright alerts watch|history|test`. */
export function alertsCommand(world: TrainingWorld): CommandModule {
  const command = (usage: string, describe: string, action: 'watch' | 'history' | 'test'): CommandModule<object, AlertArguments> => ({
    command: usage,
    describe,
    builder: (yargs) => {
      const withFile = yargs.positional('file', { type: 'string', demandOption: true, describe: 'rules and where to send, as YAML' })
      if (action === 'history')
        withFile.positional('run', { type: 'string', demandOption: true, describe: 'id of a run, its beginning, or latest' })
      if (action === 'history') withFile.option('json', { type: 'boolean', default: false, describe: 'as JSON' })
      return withFile.options(runOptions) as never
    },
    handler: async (args) => (await import('./alerts-run.ts')).runAlerts(action, args, world),
  })
  return {
    command: 'alerts',
    describe: 'tell a webhook, a command or a mailbox when something happens to a run',
    builder: (yargs) =>
      yargs
        .command(command('watch <file>', 'watch every run of the folder until Ctrl-C; what was missed meanwhile is told', 'watch'))
        .command(command('history <file> <run>', 'what the rules would have said over a run; nothing is sent', 'history'))
        .command(command('test <file>', 'send one alert to every place the file names', 'test'))
        .demandCommand(1, 'expected watch, history or test')
        .strict(),
    handler: () => undefined,
  }
}
