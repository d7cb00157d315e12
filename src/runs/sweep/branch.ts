import { UserError } from '../../domain/errors.ts'
import type { Stage } from '../../domain/stage/schema.ts'
import type { Trial } from '../../domain/sweep/state.ts'

/** Where a trial goes on from, and the stage it has from there on. */
export interface Branch {
  readonly from: NonNullable<Trial['branchedFrom']>
  readonly stage: Stage
}

/** Courses of the learning rate that are the same whatever the length of the stage, once warmed up. */
const endless: readonly Stage['schedule']['name'][] = ['constant', 'constant-with-warmup']

/**
 * The checkpoint a trial begins from: the one a script named, or the end of the longest finished trial that is the same but shorter,
 * where the course of training does not depend on the length. Undefined where it begins like any other.
 */
export function branchFor(trial: Trial, stage: Stage, trials: readonly Trial[]): Branch | undefined {
  if (trial.branchOf) return { from: fromScript(trial.branchOf, trials), stage }
  const shorter = 'steps' in trial.values && dependsNotOnLength(stage) ? shorterOf(trial, stage, trials) : undefined
  if (!shorter || shorter.step === null) return undefined
  const schedule = { ...stage.schedule, name: 'constant' as const, warmupSteps: 0 }
  return {
    from: { trial: shorter.number, step: shorter.step, counts: true },
    stage: { ...stage, steps: stage.steps - shorter.step, schedule },
  }
}

/** Steps a trial has behind it when its run begins. */
export function stepsBefore({ branchedFrom }: Pick<Trial, 'branchedFrom'>): number {
  return branchedFrom?.counts ? branchedFrom.step : 0
}

function fromScript({ trial: number, step }: NonNullable<Trial['branchOf']>, trials: readonly Trial[]): Branch['from'] {
  const parent = trials.find((other) => other.number === number)
  const at = step ?? parent?.step
  if (parent?.run === undefined || at === undefined || at === null)
    throw new UserError('TRIAL_UNKNOWN', `trial ${number}: expected one with a checkpoint to branch from, got none`)
  return { trial: number, step: at, counts: false }
}

function dependsNotOnLength({ schedule, phases, epochs, heldOut }: Stage): boolean {
  return endless.includes(schedule.name) && phases.length === 0 && epochs === null && heldOut.patience === null
}

/** The longest finished trial with the same values but fewer steps. */
function shorterOf(trial: Trial, stage: Stage, trials: readonly Trial[]): Trial | undefined {
  const key = keyOf(trial)
  const same = trials.filter((other) => {
    const steps = Number(other.values.steps)
    const hasItsEnd = other.status === 'done' && other.step === steps
    return hasItsEnd && other.seed === trial.seed && steps < stage.steps && keyOf(other) === key
  })
  return same.sort((a, b) => (b.step ?? 0) - (a.step ?? 0))[0]
}

function keyOf({ values }: Trial): string {
  const { steps: _, ...rest } = values
  return JSON.stringify(Object.entries(rest).sort(([a], [b]) => (a < b ? -1 : 1)))
}
