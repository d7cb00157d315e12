import type { CommandModule } from 'yargs'
import type { CheckArguments, ShowArguments, WhyArguments } from './config-run.ts'
import type { World } from './terminal.ts'

const json = { type: 'boolean', default: false, describe: 'as JSON' } as const
const set = { type: 'string', array: true, nargs: 1, default: [] as string[], describe: 'path=value on top, or STAGE:path=value' } as const

/** `stagewright config show|why|schema|check`. */
export function configCommand(world: World): CommandModule {
  return {
    command: 'config',
    describe: 'recipes: the complete settings, where each comes from, whether they hold',
    builder: (yargs) =>
      yargs
        .command(showCommand(world))
        .command(whyCommand(world))
        .command(schemaCommand(world))
        .command(checkCommand(world))
        .demandCommand(1, 'expected show, why, schema or check'),
    handler: () => undefined,
  }
}

function showCommand(world: World): CommandModule<object, ShowArguments> {
  return {
    command: 'show <recipe>',
    describe: 'every setting of FILE.yaml#STAGE, or of every stage of FILE.yaml',
    builder: (yargs) =>
      yargs
        .positional('recipe', { type: 'string', demandOption: true, describe: 'FILE.yaml or FILE.yaml#STAGE' })
        .option('json', json)
        .option('origins', { type: 'boolean', default: false, describe: 'where each value comes from, beside it' })
        .option('set', set),
    handler: async (args) => (await import('./config-run.ts')).showConfig(args, world),
  }
}

function whyCommand(world: World): CommandModule<object, WhyArguments> {
  return {
    command: 'why <recipe> <key>',
    describe: 'why a setting has its value: each layer with file, line and column',
    builder: (yargs) =>
      yargs
        .positional('recipe', { type: 'string', demandOption: true, describe: 'FILE.yaml#STAGE' })
        .positional('key', { type: 'string', demandOption: true, describe: 'a setting such as learningRate, or a section such as shape' })
        .option('json', json)
        .option('set', set),
    handler: async (args) => (await import('./config-run.ts')).explainConfig(args, world),
  }
}

function schemaCommand(world: World): CommandModule<object, { preset: boolean }> {
  return {
    command: 'schema',
    describe: 'JSON Schema of a recipe, for editors',
    builder: (yargs) => yargs.option('preset', { type: 'boolean', default: false, describe: 'of a preset instead' }),
    handler: async (args) => (await import('./config-run.ts')).printSchema(args, world),
  }
}

function checkCommand(world: World): CommandModule<object, CheckArguments> {
  return {
    command: 'check <files..>',
    describe: 'whether recipes hold: every problem with its line',
    builder: (yargs) =>
      yargs.positional('files', { type: 'string', array: true, demandOption: true, describe: 'recipes' }).option('json', json),
    handler: async (args) => (await import('./config-run.ts')).checkConfig(args, world),
  }
}
