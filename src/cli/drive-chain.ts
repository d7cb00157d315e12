import type { CommandModule } from 'yargs'
import type { TrainingWorld } from './run-world.ts'

/** The hidden command a chain's driver is. */
export function driveChainCommand(world: TrainingWorld): CommandModule<object, { folder: string }> {
  return {
    command: '_drive-chain <folder>',
    describe: false,
    builder: (yargs) => yargs.positional('folder', { type: 'string', demandOption: true }),
    handler: async ({ folder }) => {
      const { driveChain } = await import('../runs/chain-driver.ts')
      const { dirname } = await import('node:path')
      await driveChain(folder, await world.runsWorld({ runsFolder: dirname(dirname(folder)) }))
    },
  }
}
