import type { CommandModule } from 'yargs'
import type { DoctorArguments } from './doctor-run.ts'
import { runOptions, type TrainingWorld } from './run-world.ts'

/** `stagewright doctor`. */
export function doctorCommand(world: TrainingWorld): CommandModule<object, DoctorArguments> {
  return {
    command: 'doctor',
    describe: 'whether everything training needs is in place',
    builder: (yargs) => yargs.option('json', { type: 'boolean', default: false, describe: 'as JSON' }).options(runOptions),
    handler: async (args) => (await import('./doctor-run.ts')).runDoctor(args, world),
  }
}
