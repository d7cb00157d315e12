import type { CommandModule } from 'yargs'
import type { ImportArguments } from './import-run.ts'
import type { World } from './terminal.ts'

/** `stagewright import SCRIPT…`. */
export function importCommand(world: World): CommandModule<object, ImportArguments> {
  return {
    command: 'import <scripts..>',
    describe: 'upstream’s launch scripts as stages',
    builder: (yargs) =>
      yargs
        .positional('scripts', { type: 'string', array: true, demandOption: true, describe: 'FILE.sh, or v1.3.1:PATH in a checkout' })
        .option('json', { type: 'boolean', default: false, describe: 'as JSON' })
        .option('lineage', { type: 'boolean', default: false, describe: 'which stage starts from which' })
        .option('trainer', { type: 'string', describe: 'version of the trainer, where it should not be detected' })
        .option('upstream', { type: 'string', describe: 'checkout of Open-Sora-Plan' }),
    handler: async (args) => {
      const { runImport } = await import('./import-run.ts')
      await runImport(args, world)
    },
  }
}
