import type { Argv, CommandModule } from 'yargs'
import { engineOptions } from './engine-options.ts'
import { runOptions, type TrainingWorld } from './run-world.ts'
import type { SweepArguments, SweepPlanArguments, SweepShowArguments, SweepStopArguments } from './sweep-run.ts'

/** `stagewright sweep FILE`, `sweep plan|show|stop`. */
export function sweepCommand(world: TrainingWorld): CommandModule {
  return {
    command: 'sweep',
    describe: 'search over settings of a stage: trials that share what they have in common',
    builder: (yargs) =>
      yargs.command(driveCommand(world)).command(planCommand(world)).command(showCommand(world)).command(stopCommand(world)),
    handler: () => undefined,
  }
}

function fileOf(yargs: Argv) {
  return yargs
    .positional('file', { type: 'string', demandOption: true, describe: 'a sweep: FILE.yaml; configs/sweeps has one to start from' })
    .option('data', { type: 'string', describe: 'clips of stages that name none; outranks the file' })
}

function driveCommand(world: TrainingWorld): CommandModule<object, SweepArguments> {
  return {
    command: '$0 <file>',
    describe: 'begin a sweep, or go on with it: killed or stopped, the same command goes on and counts nothing twice',
    builder: (yargs) =>
      fileOf(yargs)
        .option('fork', { type: 'boolean', default: false, describe: 'begin another of the same name, with its finished points' })
        .option('dryRun', { type: 'boolean', default: false, describe: 'print what would be sent to the engine, and begin nothing' })
        .option('detach', { type: 'boolean', default: false, describe: 'return at once; the same command comes back' })
        .option('json', { type: 'boolean', default: false, describe: 'the report as JSON, at the end' })
        .options({ ...engineOptions, ...runOptions }),
    handler: async (args) => (await import('./sweep-run.ts')).runSweep(args, world),
  }
}

function planCommand(world: TrainingWorld): CommandModule<object, SweepPlanArguments> {
  return {
    command: 'plan <file>',
    describe: 'what a sweep would train: trials, steps, hours, disk, duplicates, points that are no stage',
    builder: (yargs) =>
      fileOf(yargs)
        .option('json', { type: 'boolean', default: false, describe: 'as JSON' })
        .options({ ...engineOptions, ...runOptions }),
    handler: async (args) => (await import('./sweep-plan-run.ts')).planSweepFile(args, world),
  }
}

function showCommand(world: TrainingWorld): CommandModule<object, SweepShowArguments> {
  return {
    command: 'show [sweep]',
    describe: 'the ranking, what is noise, each point against the best, importance, the cheapest setting; without a sweep: all there are',
    builder: (yargs) =>
      yargs
        .positional('sweep', { type: 'string', describe: 'an id, its beginning, a name, or latest' })
        .option('json', { type: 'boolean', default: false, describe: 'as JSON' })
        .option('markdown', { type: 'boolean', default: false, describe: 'as Markdown' })
        .option('csv', { type: 'boolean', default: false, describe: 'a row a trial' })
        .options(runOptions),
    handler: async (args) => (await import('./sweep-run.ts')).showSweep(args, world),
  }
}

function stopCommand(world: TrainingWorld): CommandModule<object, SweepStopArguments> {
  return {
    command: 'stop <sweep>',
    describe: 'end a sweep; its trials stop with a checkpoint and the same file goes on with them',
    builder: (yargs) =>
      yargs
        .positional('sweep', { type: 'string', demandOption: true, describe: 'an id, its beginning, a name, or latest' })
        .option('kill', { type: 'boolean', default: false, describe: 'without a checkpoint' })
        .options(runOptions),
    handler: async (args) => (await import('./sweep-run.ts')).stopSweep(args, world),
  }
}

/** The hidden command a sweep's driver is. */
export function driveSweepCommand(world: TrainingWorld): CommandModule<object, { folder: string }> {
  return {
    command: '_drive-sweep <folder>',
    describe: false,
    builder: (yargs) => yargs.positional('folder', { type: 'string', demandOption: true }),
    handler: async ({ folder }) => {
      const { driveSweep } = await import('../runs/sweep/driver.ts')
      const { dirname } = await import('node:path')
      await driveSweep(folder, await world.runsWorld({ runsFolder: dirname(dirname(folder)) }))
    },
  }
}
