import type { CommandModule } from 'yargs'
import type { DataCheckArguments, DataInitArguments } from './data-run.ts'
import { runOptions, type TrainingWorld } from './run-world.ts'

/** `stagewright data init|check`. */
export function dataCommand(world: TrainingWorld): CommandModule {
  return {
    command: 'data',
    describe: 'clips: write their annotation, check what a stage would train on',
    builder: (yargs) => yargs.command(initCommand(world)).command(checkCommand(world)).demandCommand(1, 'expected init or check'),
    handler: () => undefined,
  }
}

function initCommand(world: TrainingWorld): CommandModule<object, DataInitArguments> {
  return {
    command: 'init <folder>',
    describe: 'probe the clips of a folder and write upstream’s list file and annotation beside them',
    builder: (yargs) =>
      yargs
        .positional('folder', { type: 'string', demandOption: true, describe: 'clips, each with a text file of its caption' })
        .options(runOptions),
    handler: async (args) => (await import('./data-run.ts')).initData(args, world),
  }
}

function checkCommand(world: TrainingWorld): CommandModule<object, DataCheckArguments> {
  return {
    command: 'check <recipe>',
    describe: 'which clips each rule drops, the smallest change that keeps them, and where the stage ends',
    builder: (yargs) =>
      yargs
        .positional('recipe', { type: 'string', demandOption: true, describe: 'FILE.yaml#STAGE or v1.3/STAGE' })
        .option('data', { type: 'string', describe: 'clips, where the stage names none' })
        .option('set', { type: 'string', array: true, nargs: 1, default: [] as string[], describe: 'path=value on top' })
        .option('json', { type: 'boolean', default: false, describe: 'as JSON' })
        .options(runOptions),
    handler: async (args) => (await import('./data-run.ts')).checkData(args, world),
  }
}
