import type { CommandModule } from 'yargs'
import { runOptions, type TrainingWorld } from './run-world.ts'
import type { World } from './terminal.ts'
import type { ConvertArguments, MergeArguments, WeightCheckArguments } from './weights-check-run.ts'
import type { WeightDiffArguments } from './weights-diff-run.ts'
import type { ListArguments, VerifyArguments } from './weights-run.ts'

const json = { type: 'boolean', default: false, describe: 'as JSON' } as const
const full = { type: 'boolean', default: false, describe: 'every line' } as const
const use = {
  choices: ['ema', 'raw'] as const,
  describe: 'which weights of a run or checkpoint; its moving average where it has one',
} as const
const place = 'a .safetensors file, an index, a folder, a checkpoint or the folder of a run'

/** `stagewright weights ls|verify|diff|check|convert|merge`. */
export function weightsCommand(world: TrainingWorld): CommandModule {
  return {
    command: 'weights',
    describe: 'weight files: what is inside, whether they hold, how they differ',
    builder: (yargs) =>
      yargs
        .command(listCommand(world))
        .command(verifyCommand(world))
        .command(diffCommand(world))
        .command(checkCommand(world))
        .command(convertCommand(world))
        .command(mergeCommand(world))
        .demandCommand(1, 'expected ls, verify, diff, check, convert or merge'),
    handler: () => undefined,
  }
}

function listCommand(world: World): CommandModule<object, ListArguments> {
  return {
    command: 'ls <path>',
    describe: 'modules as a tree: parameters, bytes and dtypes; only headers are read',
    builder: (yargs) =>
      yargs
        .positional('path', { type: 'string', demandOption: true, describe: place })
        .option('depth', { type: 'number', default: 2, describe: 'levels of the tree' })
        .option('use', use)
        .option('json', json),
    handler: async (args) => (await import('./weights-run.ts')).listWeights(args, world),
  }
}

function verifyCommand(world: World): CommandModule<object, VerifyArguments> {
  return {
    command: 'verify <paths..>',
    describe: 'everything the format forbids, with rule and offset',
    builder: (yargs) =>
      yargs
        .positional('paths', { type: 'string', array: true, demandOption: true, describe: place })
        .option('use', use)
        .option('json', json),
    handler: async (args) => (await import('./weights-run.ts')).verify(args, world),
  }
}

function diffCommand(world: TrainingWorld): CommandModule<object, WeightDiffArguments> {
  return {
    command: 'diff <a> <b>',
    describe: 'what differs: names and shapes, then bytes, then numbers where bytes differ',
    builder: (yargs) =>
      yargs
        .positional('a', { type: 'string', demandOption: true, describe: `${place}; or RUN, RUN@STEP` })
        .positional('b', { type: 'string', demandOption: true, describe: 'the weights to compare with it' })
        .option('map', {
          type: 'string',
          array: true,
          nargs: 1,
          default: [] as string[],
          describe: 'old=new prefix of A’s names, or /regex/=new',
        })
        .option('use', use)
        .option('full', full)
        .option('json', json)
        .options(runOptions)
        .epilogue('Where B is a run, what its stage says of trainable and frozen parameters is held against what changed.'),
    handler: async (args) => (await import('./weights-diff-run.ts')).diff(args, world),
  }
}

function checkCommand(world: World): CommandModule<object, WeightCheckArguments> {
  return {
    command: 'check <folder>',
    describe: 'whether the model that config.json names would load the weights beside it; nothing is loaded',
    builder: (yargs) =>
      yargs
        .positional('folder', { type: 'string', demandOption: true, describe: 'a folder with config.json and weights, or a checkpoint' })
        .option('accept', {
          type: 'string',
          array: true,
          nargs: 1,
          default: [] as string[],
          describe: 'missing:GLOB, unexpected:GLOB or reshaped:GLOB',
        })
        .option('use', use)
        .option('full', full)
        .option('json', json),
    handler: async (args) => (await import('./weights-check-run.ts')).check(args, world),
  }
}

function convertCommand(world: World): CommandModule<object, ConvertArguments> {
  return {
    command: 'convert <file> <out>',
    describe: 'a pickle of weights (.ckpt, .pt, .bin) as safetensors, once; code in it is never run',
    builder: (yargs) =>
      yargs.positional('file', { type: 'string', demandOption: true, describe: 'the pickle' }).positional('out', {
        type: 'string',
        demandOption: true,
        describe: 'a .safetensors file, or a folder where config.json lies beside the pickle',
      }),
    handler: async (args) => (await import('./weights-check-run.ts')).convert(args, world),
  }
}

function mergeCommand(world: World): CommandModule<object, MergeArguments> {
  return {
    command: 'merge <base> <adapter> <out>',
    describe: 'low-rank adapters in peft’s layout merged into the weights they were trained beside',
    builder: (yargs) =>
      yargs
        .positional('base', { type: 'string', demandOption: true, describe: 'a folder of weights, a checkpoint or the folder of a run' })
        .positional('adapter', {
          type: 'string',
          demandOption: true,
          describe: 'a folder with adapter_config.json, such as a checkpoint’s adapter/',
        })
        .positional('out', { type: 'string', demandOption: true, describe: 'the folder to write' })
        .option('use', use)
        .option('json', json),
    handler: async (args) => (await import('./weights-check-run.ts')).merge(args, world),
  }
}
