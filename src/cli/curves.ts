import type { CommandModule } from 'yargs'
import type { ExportCurvesArguments, ImportCurvesArguments } from './curves-run.ts'
import { runOptions, type TrainingWorld } from './run-world.ts'

/** `stagewright curves import|export`. */
export function curvesCommand(world: TrainingWorld): CommandModule {
  return {
    command: 'curves',
    describe: 'measurements in and out: other tools’ logs as runs, runs as tables',
    builder: (yargs) =>
      yargs.command(importCommand(world)).command(exportCommand(world)).demandCommand(1, 'expected import or export').strict(),
    handler: () => undefined,
  }
}

function importCommand(world: TrainingWorld): CommandModule<object, ImportCurvesArguments> {
  return {
    command: 'import <log>',
    describe: 'make a run of a log: TensorBoard event files (a file or a folder), trainer_state.json, lines of JSON',
    builder: (yargs) =>
      yargs
        .positional('log', { type: 'string', demandOption: true, describe: 'the log' })
        .option('name', { type: 'string', describe: 'what to call it; the name of the log else' })
        .option('follow', { type: 'boolean', default: false, describe: 'go on with what is added, until Ctrl-C' })
        .options(runOptions),
    handler: async (args) => (await import('./curves-run.ts')).runImportCurves(args, world),
  }
}

function exportCommand(world: TrainingWorld): CommandModule<object, ExportCurvesArguments> {
  return {
    command: 'export <run>',
    describe: 'every measurement of a run as a table, a row a step',
    builder: (yargs) =>
      yargs
        .positional('run', { type: 'string', demandOption: true, describe: 'id of a run, its beginning, or latest' })
        .option('to', { choices: ['csv', 'parquet'] as const, default: 'csv' as const, describe: 'form of the table' })
        .option('output', { type: 'string', describe: 'file to write; CSV is printed else' })
        .options(runOptions),
    handler: async (args) => (await import('./curves-run.ts')).runExportCurves(args, world),
  }
}
