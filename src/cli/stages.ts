import type { CommandModule } from 'yargs'
import type { StagesArguments } from './stages-run.ts'
import type { World } from './terminal.ts'

/** `stagewright stages`, and `stagewright stages show NAME`. */
export function stagesCommand(world: World): CommandModule<object, StagesArguments> {
  return {
    command: 'stages [action] [name]',
    describe: 'the published stages of upstream; `stages show v1.3/t2v-3` explains one',
    builder: (yargs) =>
      yargs
        .positional('action', { type: 'string', choices: ['list', 'show'], describe: 'list or show' })
        .positional('name', { type: 'string', describe: 'a stage, such as v1.3/t2v-3' })
        .option('trainer', { type: 'string', describe: 'of one release only, such as v1.3' })
        .option('json', { type: 'boolean', default: false, describe: 'as JSON' }),
    handler: async (args) => {
      const { runStages } = await import('./stages-run.ts')
      runStages(args, world)
    },
  }
}
