import type { CommandModule } from 'yargs'
import type { ReportArguments } from './report-run.ts'
import { runOptions, type TrainingWorld } from './run-world.ts'

/** `stagewright report`. */
export function reportCommand(world: TrainingWorld): CommandModule<object, ReportArguments> {
  return {
    command: 'report <run>',
    describe: 'one HTML file that shows a run, to send to a colleague',
    builder: (yargs) =>
      yargs
        .positional('run', { type: 'string', demandOption: true, describe: 'id of a run, its beginning, or latest' })
        .option('out', { type: 'string', describe: 'file to write; RUN.html here else' })
        .options(runOptions)
        .epilogue(
          'The file needs no network and no server. It holds curves, stage, differences and the newest samples (up to 8 MiB).',
        ) as never,
    handler: async (args) => (await import('./report-run.ts')).writeReport(args, world),
  }
}
