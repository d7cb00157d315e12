import type { CommandModule } from 'yargs'
import type { TrainingWorld } from './run-world.ts'

/** The hidden command a run's supervisor is. */
export function superviseCommand(world: TrainingWorld): CommandModule<object, { folder: string; attempt: number }> {
  return {
    command: '_supervise <folder> <attempt>',
    describe: false,
    builder: (yargs) =>
      yargs.positional('folder', { type: 'string', demandOption: true }).positional('attempt', { type: 'number', demandOption: true }),
    handler: async ({ folder, attempt }) => {
      const { supervise } = await import('../runs/supervise.ts')
      const { dirname } = await import('node:path')
      const { engine, python } = await world.runsWorld({ runsFolder: dirname(folder) })
      await supervise(folder, { engine, python }, { attempt })
    },
  }
}
