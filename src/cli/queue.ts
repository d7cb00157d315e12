import type { Argv, CommandModule } from 'yargs'
import type { QueueArguments } from './queue-run.ts'
import { runOptions, type TrainingWorld } from './run-world.ts'

type Actions = typeof import('./queue-run.ts')

const id = { type: 'number', demandOption: true, describe: 'number of the entry, as `queue list` shows it' } as const
const json = { type: 'boolean', default: false, describe: 'as JSON' } as const

/** Options of whatever adds to the queue. */
export const additionOptions = {
  after: { type: 'number', array: true, default: [] as number[], describe: 'entries that must complete before' },
  priority: { type: 'number', default: 0, describe: 'higher ones start first' },
  share: { type: 'boolean', default: false, describe: 'may share a GPU, as far as the memory estimates say that both fit' },
} as const

/** `stagewright queue …`: stages that wait for their turn on this machine. */
export function queueCommand(world: TrainingWorld): CommandModule {
  const action =
    (name: keyof Actions) =>
    async (args: object): Promise<void> =>
      (await import('./queue-run.ts'))[name](args as QueueArguments, world)
  const of = (yargs: Argv) => yargs.positional('id', id).options(runOptions)
  return {
    command: 'queue <command>',
    describe: 'stages that wait for their turn on this machine',
    builder: (yargs) =>
      yargs
        .command(
          'add <recipe>',
          'add the stages of a recipe, each after the one before, or one stage',
          (own) =>
            own.positional('recipe', { type: 'string', demandOption: true, describe: 'FILE.yaml, FILE.yaml#STAGE or v1.3/STAGE' }).options({
              data: { type: 'string', describe: 'clips of stages that name none' },
              set: { type: 'string', array: true, nargs: 1, default: [] as string[], describe: 'path=value on top' },
              tiny: { type: 'boolean', default: false, describe: 'a small model and a few steps' },
              json,
              ...additionOptions,
              ...runOptions,
            }),
          action('queueAdd'),
        )
        .command('list', 'what runs, waits and has ended', (own) => own.options({ json, ...runOptions }), action('queueList'))
        .command(
          'cancel <id>',
          'take an entry out; one that trains stops with a checkpoint',
          (own) => of(own).option('kill', { type: 'boolean', default: false, describe: 'at once, without a checkpoint' }),
          action('queueCancel'),
        )
        .command('hold <id>', 'let an entry wait until it is released', of, action('queueHold'))
        .command('release <id>', 'let an entry that was held have its turn', of, action('queueRelease'))
        .command(
          'move <id>',
          'change the turn of an entry',
          (own) =>
            of(own).options({
              before: { type: 'number', describe: 'to the place before this entry, with its priority; last of its priority else' },
              priority: { type: 'number', describe: 'another priority' },
            }),
          action('queueMove'),
        )
        .command(
          'slots',
          'what the queue may use of this machine; without options, what it uses now',
          (own) =>
            own.options({
              gpus: { type: 'string', describe: 'GPUs by index, such as 0,1; none for no GPU' },
              cores: { type: 'number', describe: 'CPU cores' },
              memory: { type: 'number', describe: 'GiB of the machine’s memory' },
              detect: { type: 'boolean', default: false, describe: 'whatever the machine has' },
              json,
              ...runOptions,
            }),
          action('queueSlots'),
        )
        .demandCommand(1, 'expected add, list, cancel, hold, release, move or slots'),
    handler: () => undefined,
  }
}

/** The hidden command the queue's driver is. */
export function driveQueueCommand(world: TrainingWorld): CommandModule<object, { folder: string }> {
  return {
    command: '_drive-queue <folder>',
    describe: false,
    builder: (yargs) => yargs.positional('folder', { type: 'string', demandOption: true }),
    handler: async ({ folder }) => {
      const { driveQueue } = await import('../runs/queue-driver.ts')
      const { dirname } = await import('node:path')
      await driveQueue(folder, await world.runsWorld({ runsFolder: dirname(dirname(folder)) }))
    },
  }
}
