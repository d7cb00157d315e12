import type { CommandModule } from 'yargs'
import type { ExportArguments } from './export-run.ts'
import type { World } from './terminal.ts'

/** `stagewright export STAGE --to upstream@v1.3.1`. */
export function exportCommand(world: World): CommandModule<object, ExportArguments> {
  return {
    command: 'export <stage>',
    describe: 'a stage as the launch command of upstream’s own trainer',
    builder: (yargs) =>
      yargs
        .positional('stage', { type: 'string', demandOption: true, describe: 'FILE.yaml#STAGE, v1.3/STAGE, a script or a run' })
        .option('to', { type: 'string', demandOption: true, describe: 'upstream@VERSION, such as upstream@v1.3.1' })
        .option('output', {
          type: 'string',
          describe: 'folder for the command and the files it reads (v1.5: model and data); printed else',
        })
        .option('json', { type: 'boolean', default: false, describe: 'as JSON' })
        .option('upstream', { type: 'string', describe: 'checkout of Open-Sora-Plan' }),
    handler: async (args) => {
      const { runExport } = await import('./export-run.ts')
      await runExport(args, world)
    },
  }
}
