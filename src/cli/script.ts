import type { CommandModule } from 'yargs'
import type { TrainingWorld } from './run-world.ts'
import type { ScriptArguments } from './script-run.ts'

/** `stagewright script FILE.ts [ARGUMENTS…]`. */
export function scriptCommand(world: TrainingWorld): CommandModule<object, ScriptArguments> {
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
