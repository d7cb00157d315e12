import type { CommandModule } from 'yargs'
import type { ScriptArguments } from './script-run.ts'
import type { World } from './terminal.ts'

/** `stagewright script FILE.ts [ARGUMENTS…]`. */
export function scriptCommand(world: World): CommandModule<object, ScriptArguments> {
  return {
    command: 'script <file> [arguments..]',
    describe: 'run a TypeScript file that imports from stagewright',
    builder: (yargs) =>
      yargs
        .positional('file', { type: 'string', demandOption: true, describe: 'the script' })
        .positional('arguments', { type: 'string', array: true, default: [] as string[], describe: 'its arguments' }),
    handler: async (args) => (await import('./script-run.ts')).runScript(args, world),
  }
}
