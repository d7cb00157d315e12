import type { CommandModule } from 'yargs'
import { runOptions, type TrainingWorld } from './run-world.ts'
import type { SampleArguments } from './sample-run.ts'

/** `stagewright sample RUN`. */
export function sampleCommand(world: TrainingWorld): CommandModule<object, SampleArguments> {
  const texts = { type: 'string', array: true, nargs: 1, default: [] as string[] } as const
  return {
    command: 'sample <run>',
    describe: 'sample videos of a run’s checkpoint, without training; with --now, of a run while it trains',
    builder: (yargs) =>
      yargs
        .positional('run', { type: 'string', demandOption: true, describe: 'id of a run, its beginning, or latest; RUN@STEP' })
        .option('prompt', { ...texts, describe: 'a caption to sample; the stage’s own else' })
        .option('from', {
          ...texts,
          describe: 'image or clip that an inpaint stage goes on from, or an autoencoder reconstructs; FIRST,LAST for a transition',
        })
        .option('task', {
          choices: ['t2v', 'i2v', 'transition', 'continuation'] as const,
          describe: 'what an inpaint stage knows: nothing, the first frame, first and last, the first quarter; the stage’s own else',
        })
        .option('weights', {
          choices: ['ema', 'raw', 'best'] as const,
          default: 'ema' as const,
          describe: 'which weights; raw ones where no moving average is kept',
        })
        .option('steps', { type: 'number', describe: 'sampler steps' })
        .option('guidance', { type: 'number', describe: 'guidance scale' })
        .option('seed', { type: 'number', describe: 'seed of the noise' })
        .option('set', { ...texts, describe: 'path=value on top of the stage, such as samples.fps=24' })
        .option('out', { type: 'string', describe: 'folder of the files; the run’s samples else' })
        .option('now', { type: 'boolean', default: false, describe: 'ask the trainer for the stage’s samples at its next step' })
        .option('json', { type: 'boolean', default: false, describe: 'as JSON' })
        .options(runOptions),
    handler: async (args) => (await import('./sample-run.ts')).runSample(args, world),
  }
}
