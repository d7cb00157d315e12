import type { CommandModule } from 'yargs'
import type { ParityArguments } from './parity-run.ts'
import { runOptions, type TrainingWorld } from './run-world.ts'

/** `stagewright parity CASE.json…`. */
export function parityCommand(world: TrainingWorld): CommandModule<object, ParityArguments> {
  return {
    command: 'parity <cases..>',
    describe: 'the bundled models against reference cases of upstream',
    builder: (yargs) =>
      yargs
        .positional('cases', {
          type: 'string',
          array: true,
          demandOption: true,
          describe: 'CASE.json, with its CASE.safetensors beside it',
        })
        .option('json', { type: 'boolean', default: false, describe: 'as JSON' })
        .options(runOptions),
    handler: async (args) => (await import('./parity-run.ts')).runParity(args, world),
  }
}
