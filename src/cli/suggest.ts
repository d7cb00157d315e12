import type { CommandModule } from 'yargs'
import { runOptions, type TrainingWorld } from './run-world.ts'
import type { SuggestArguments } from './suggest-run.ts'

/** `stagewright suggest --clips N --gpus 1x24GB --from STAGE`. */
export function suggestCommand(world: TrainingWorld): CommandModule<object, SuggestArguments> {
  return {
    command: 'suggest',
    describe: 'write a starting recipe for fine-tuning on few clips, each line with its reason and source',
    builder: (yargs) =>
      yargs
        .option('clips', { type: 'number', demandOption: true, describe: 'how many clips there are' })
        .option('gpus', { type: 'string', demandOption: true, describe: 'how many of how much memory: 1x24GB' })
        .option('from', { type: 'string', demandOption: true, describe: 'stage to start from: v1.3/t2v-3, FILE.yaml#STAGE or a run' })
        .option('weights', { type: 'string', describe: 'folder of the parent’s weights; a run knows its own' })
        .option('vae', { type: 'string', describe: 'folder of the autoencoder; a run knows its own' })
        .option('output', { type: 'string', default: 'fine-tune.yaml', describe: 'recipe to write' })
        .option('print', { type: 'boolean', default: false, describe: 'print the recipe; nothing is written' })
        .option('json', { type: 'boolean', default: false, describe: 'the suggestion as JSON; nothing is written' })
        .options(runOptions),
    handler: async (args) => (await import('./suggest-run.ts')).runSuggest(args, world),
  }
}
