import type { CommandModule } from 'yargs'
import type { DataCacheArguments } from './data-cache-run.ts'
import type { DataCheckArguments, DataInitArguments } from './data-run.ts'
import { runOptions, type TrainingWorld } from './run-world.ts'

/** `stagewright data init|check|show|cache`. */
export function dataCommand(world: TrainingWorld): CommandModule {
  return {
    command: 'data',
    describe: 'clips: write their annotation, check what a stage would train on, encode them once',
    builder: (yargs) =>
      yargs
        .command(initCommand(world))
        .command(checkCommand(world))
        .command(showCommand(world))
        .command(cacheCommand(world))
        .demandCommand(1, 'expected init, check, show or cache'),
    handler: () => undefined,
  }
}

const recipePositional = { type: 'string', demandOption: true, describe: 'FILE.yaml#STAGE or v1.3/STAGE' } as const
const stageOptions = {
  data: { type: 'string', describe: 'clips, where the stage names none' },
  set: { type: 'string', array: true, nargs: 1, default: [] as string[], describe: 'path=value on top' },
  json: { type: 'boolean', default: false, describe: 'as JSON' },
  ...runOptions,
} as const

function initCommand(world: TrainingWorld): CommandModule<object, DataInitArguments> {
  return {
    command: 'init <folder>',
    describe: 'probe the clips of a folder and write upstream’s list file and annotation beside them',
    builder: (yargs) =>
      yargs
        .positional('folder', { type: 'string', demandOption: true, describe: 'clips, each with a text file of its caption' })
        .options({ json: stageOptions.json, ...runOptions }),
    handler: async (args) => (await import('./data-run.ts')).initData(args, world),
  }
}

function checkCommand(world: TrainingWorld): CommandModule<object, DataCheckArguments & { decode: boolean }> {
  return {
    command: 'check <recipe>',
    describe: 'which clips each rule drops, the smallest change that keeps them, and where the stage ends',
    builder: (yargs) =>
      yargs
        .positional('recipe', recipePositional)
        .option('decode', { type: 'boolean', default: false, describe: 'decode every clip too and name those that cannot be' })
        .options(stageOptions),
    handler: async (args) => (await import('./data-run.ts')).checkData(args, world),
  }
}

function showCommand(world: TrainingWorld): CommandModule<object, DataCheckArguments> {
  return {
    command: 'show <recipe>',
    describe: 'the clips a stage trains on, their buckets, and which of their encodings are kept on disk',
    builder: (yargs) => yargs.positional('recipe', recipePositional).options(stageOptions),
    handler: async (args) => (await import('./data-cache-run.ts')).showData(args, world),
  }
}

function cacheCommand(world: TrainingWorld): CommandModule<object, DataCacheArguments> {
  return {
    command: 'cache <recipe>',
    describe: 'encode every clip of a stage once and keep the result (data.cache); goes on where an earlier one ended',
    builder: (yargs) =>
      yargs
        .positional('recipe', recipePositional)
        .option('verify', { type: 'boolean', default: false, describe: 'read all that is kept, and all clips, and compare hashes first' })
        .options(stageOptions),
    handler: async (args) => (await import('./data-cache-run.ts')).cacheData(args, world),
  }
}
