import type { CommandModule } from 'yargs'
import { engineOptions } from './engine-options.ts'
import type { RunArguments } from './run-arguments.ts'
import { runOptions, type TrainingWorld } from './run-world.ts'

type Action = (args: RunArguments, world: TrainingWorld) => Promise<void>

const starting = () => import('./run-actions.ts')
const controlling = () => import('./control-run.ts')
const showing = () => import('./show-run.ts')

const run = { type: 'string', demandOption: true, describe: 'id of a run, its beginning, or latest' } as const
const runOrChain = { ...run, describe: 'id of a run or a chain, its beginning, or latest' } as const
const detach = { type: 'boolean', default: false, describe: 'return at once; `attach` follows' } as const
const set = { type: 'string', array: true, nargs: 1, default: [] as string[], describe: 'path=value on top' } as const
const json = { type: 'boolean', default: false, describe: 'as JSON' } as const
const why = { type: 'string', describe: 'reason, for the journal' } as const

const takesChain = ['continue', 'attach', 'stop', 'show']

/** Every command about one run. */
export function runCommands(world: TrainingWorld): CommandModule<object, RunArguments>[] {
  const command = (
    usage: string,
    describe: string,
    action: () => Promise<Action>,
    more: Record<string, object> = {},
    positionals: Record<string, object> = {},
  ): CommandModule<object, RunArguments> => ({
    command: usage,
    describe,
    builder: (yargs) => {
      const withRun = yargs.positional('run', takesChain.includes(usage.split(' ')[0] ?? '') ? runOrChain : run)
      for (const [name, option] of Object.entries(positionals)) withRun.positional(name, option)
      return withRun.options({ ...more, ...runOptions }) as never
    },
    handler: async (args) => (await action())(args, world),
  })
  return [
    command('continue <run>', 'go on with a run from its newest checkpoint', async () => (await starting()).runContinue, {
      processes: { type: 'number', describe: 'ranks per machine from now on; the global batch stays' },
      nodes: { type: 'number', describe: 'machines from now on; the global batch stays' },
      detach,
      ...engineOptions,
    }),
    command('branch <run>', 'a new run from a checkpoint with changed settings', async () => (await starting()).runBranch, {
      at: { type: 'string', describe: 'step of the checkpoint, or best; the newest else' },
      set,
      detach,
      ...engineOptions,
    }),
    command(
      'advance <run> [stage]',
      'the next stage of the recipe, from the weights alone',
      async () => (await starting()).runAdvance,
      {
        weights: { choices: ['ema', 'raw', 'best'], default: 'ema', describe: 'which weights are handed on' },
        at: { type: 'string', describe: 'step of the checkpoint' },
        set,
        detach,
        ...engineOptions,
      },
      { stage: { type: 'string', describe: 'stage of the same recipe, or FILE.yaml#STAGE; the following one else' } },
    ),
    command('attach <run>', 'follow a run; Ctrl-C only leaves', async () => (await starting()).runAttach),
    command('stop <run>', 'end a run at the next step, with a checkpoint', async () => (await controlling()).runStop, {
      after: { type: 'string', describe: 'only after this step' },
      kill: { type: 'boolean', default: false, describe: 'at once, without a checkpoint' },
      why,
      json,
    }),
    command('pause <run>', 'checkpoint and free the device; `continue` goes on', async () => (await controlling()).runPause, { why, json }),
    command(
      'set <run> <changes..>',
      'change settings of a run while it trains',
      async () => (await controlling()).runSet,
      {
        group: {
          type: 'string',
          describe: 'with learningRate=…: only of these parameters, named as in `trainable`: blocks[0:4], attention.self',
        },
        why,
        json,
      },
      { changes: { type: 'string', array: true, describe: 'path=value, or path=*0.5 to multiply' } },
    ),
    command('checkpoint <run>', 'write a checkpoint now', async () => (await controlling()).runCheckpoint, { why, json }),
    command('measure <run>', 'take the held-out loss now', async () => (await controlling()).runMeasure, { why, json }),
    command('thaw <run>', 'begin the next of the stage’s `phases` now', async () => (await controlling()).runThaw, { why, json }),
    command('show <run>', 'what a run is, where it stands, how it ended', async () => (await showing()).runShow, {
      incident: {
        type: 'number',
        describe: 'the page of one incident, by its number: what was seen, the clips, what was done, what followed',
      },
      json,
    }),
  ]
}
