import type { CommandModule } from 'yargs'
import type { LintArguments } from './lint-run.ts'
import type { World } from './terminal.ts'

/** `stagewright lint RECIPE|SCRIPT…`. */
export function lintCommand(world: World): CommandModule<object, LintArguments> {
  return {
    command: 'lint <addresses..>',
    describe: 'what a person should look at in recipes and upstream’s scripts',
    builder: (yargs) =>
      yargs
        .positional('addresses', { type: 'string', array: true, demandOption: true, describe: 'recipes, scripts or stages' })
        .option('json', { type: 'boolean', default: false, describe: 'as JSON' })
        .option('runs', { type: 'string', describe: 'folder of the runs' })
        .option('trainer', { type: 'string', describe: 'version of the trainer, where it should not be detected' })
        .option('upstream', { type: 'string', describe: 'checkout of Open-Sora-Plan' }),
    handler: async (args) => {
      const { runLint } = await import('./lint-run.ts')
      await runLint(args, world)
    },
  }
}
