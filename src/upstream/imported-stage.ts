import type { StageSide } from '../domain/stage/origin.ts'
import type { GivenFlag } from './arguments.ts'
import type { FlagValue, Trainer } from './trainer.ts'

/** One launch of a script as a complete stage. */
export interface ImportedStage extends StageSide {
  readonly script: string
  readonly version: string
  readonly trainerVersion: string
  readonly trainer: Trainer
  /** What argparse sees: every flag of the trainer and every other one given. */
  readonly arguments: ReadonlyMap<string, FlagValue>
  readonly given: ReadonlyMap<string, GivenFlag>
}

/** Keys of `stage.upstream` that say how the trainer is launched; flags never hold a dot followed by these names. */
export const launchKeys = {
  launcher: 'launch.launcher',
  program: 'launch.program',
  version: 'launch.version',
  option: 'launch.option.',
  project: 'launch.env.PROJECT',
} as const

/** Whether argparse would see no difference. */
export function sameValue(a: FlagValue, b: FlagValue): boolean {
  return a === b || JSON.stringify(a) === JSON.stringify(b)
}
