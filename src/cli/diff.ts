import type { CommandModule } from 'yargs'
import type { DiffArguments } from './diff-run.ts'
import type { World } from './terminal.ts'

/** `stagewright diff A B`, and `stagewright diff --chain RECIPE`. */
export function diffCommand(world: World): CommandModule<object, DiffArguments> {
  return {
    command: 'diff <a> [b]',
    describe: 'what changed between two stages, what follows from it, and what to look at',
    builder: (yargs) =>
      yargs
        .positional('a', {
          type: 'string',
          demandOption: true,
          describe: 'FILE.yaml#STAGE, a run, RUN@STEP, v1.3/STAGE, FILE.sh, v1.3.1:PATH or defaults',
        })
        .positional('b', { type: 'string', describe: 'the stage to compare with it' })
        .option('full', { type: 'boolean', default: false, describe: 'also what is the same' })
        .option('json', { type: 'boolean', default: false, describe: 'as JSON' })
        .option('markdown', { type: 'boolean', default: false, describe: 'as Markdown' })
        .option('patch', { type: 'boolean', default: false, describe: 'as a JSON patch (RFC 6902) that turns A into B' })
        .option('chain', { type: 'boolean', default: false, describe: 'every stage of one recipe, as a table' })
        .option('set', { type: 'string', array: true, nargs: 1, default: [] as string[], describe: 'path=value on top of B' })
        .option('clips', { type: 'number', describe: 'clips in the data set, for steps per epoch' })
        .option('runs', { type: 'string', describe: 'folder of the runs' })
        .option('trainer', { type: 'string', describe: 'version of upstream’s trainer of both scripts, where it should not be detected' })
        .option('upstream', { type: 'string', describe: 'checkout of Open-Sora-Plan' }),
    handler: async (args) => {
      const { runDiff } = await import('./diff-run.ts')
      await runDiff(args, world)
    },
  }
}
