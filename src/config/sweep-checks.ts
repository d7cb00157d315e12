import { UserError } from '../domain/errors.ts'
import { nearestName } from '../domain/nearest.ts'
import { stageFields, valueAt } from '../domain/stage/fields.ts'
import type { Stage } from '../domain/stage/schema.ts'
import { readConstraint, readExpression } from '../domain/sweep/expression.ts'
import type { Axis, SweepFile } from '../domain/sweep/schema.ts'
import { gridPoints, isOn, orderedAxes } from '../domain/sweep/space.ts'
import { type Located, placeInside } from './located.ts'
import type { Problems } from './problems.ts'

/*
 * What a sweep file's parts say of each other.
 */

interface Checked {
  readonly sweep: SweepFile
  readonly axes: readonly Axis[]
  /** The swept stage before any point is applied. */
  readonly stage: Stage
}

type Refuse = (keys: readonly PropertyKey[], text: string, hint?: string) => void

/** Adds everything that is wrong to `problems`. */
export function checkSweep(checked: Checked, node: Located, problems: Problems): void {
  const refuse: Refuse = (keys, text, hint) =>
    problems.add({
      code: 'CONFIG_INVALID',
      place: placeInside(node, keys),
      path: keys.join('.'),
      text,
      ...(hint === undefined ? {} : { hint }),
    })
  const attempt = (keys: readonly PropertyKey[], act: () => void) => {
    try {
      act()
    } catch (cause) {
      if (!(cause instanceof UserError)) throw cause
      const { code, message, hint } = cause
      problems.add({ code, place: placeInside(node, keys), path: keys.join('.'), text: message, ...(hint === undefined ? {} : { hint }) })
    }
  }
  checkDerived(checked, refuse, attempt)
  checkConditions(checked, refuse)
  attempt(['space'], () => {
    const ordered = orderedAxes(checked.axes)
    if (checked.sweep.sampler.name === 'grid') gridPoints(ordered)
  })
  checkBudget(checked.sweep, refuse)
  checkSampler(checked, refuse)
  checkSteps(checked, refuse)
}

/** Names an expression may use beside settings. */
const expressionNames: ReadonlySet<string> = new Set(['globalBatch', 'ranks'])

/** Derived settings and constraints name settings that are numbers, and no setting is both an axis and derived. */
function checkDerived(
  { sweep: { derived, constraints }, axes, stage }: Checked,
  refuse: Refuse,
  attempt: (keys: readonly PropertyKey[], act: () => void) => void,
): void {
  const axisPaths = new Set(axes.map(({ path }) => path))
  const changes = (name: string) => axisPaths.has(name) || Object.hasOwn(derived, name)
  const checkNames = (keys: readonly PropertyKey[], names: readonly string[]) => {
    for (const name of names.filter((other) => !expressionNames.has(other))) {
      const near = stageFields().has(name) ? undefined : nearestName(name, stageFields().keys())
      if (!stageFields().has(name)) refuse(keys, `expected settings, got ${name}`, near ? `did you mean \`${near}\`?` : undefined)
      else if (!changes(name) && typeof valueAt(stage, name) !== 'number')
        refuse(keys, `expected settings that are numbers, got ${name}, which is ${JSON.stringify(valueAt(stage, name))}`)
    }
  }
  for (const [path, text] of Object.entries(derived)) {
    const keys = ['derived', path]
    attempt(keys, () => checkNames(keys, readExpression(text).names))
    const wrong = !stageFields().has(path) ? 'no setting' : axisPaths.has(path) ? 'an axis' : undefined
    if (wrong) refuse(keys, `expected a setting beside the axes, got ${wrong}`)
  }
  for (const [place, text] of constraints.entries())
    attempt(['constraints', place], () => checkNames(['constraints', place], readConstraint(text).names))
}

/** A condition names values that the other axis has. */
function checkConditions({ axes }: Checked, refuse: Refuse): void {
  for (const { path, when } of axes) {
    for (const [name, allowed] of Object.entries(when)) {
      const other = axes.find((axis) => axis.path === name)
      const stray = other && allowed.find((value) => !isOn(other, value))
      if (stray !== undefined) refuse(['space', ...path.split('.')], `expected values of ${name} in when, got ${JSON.stringify(stray)}`)
    }
  }
}

function checkBudget({ sampler, budget, seeds, parallel, deterministic, pruner }: SweepFile, refuse: Refuse): void {
  if (new Set(seeds).size < seeds.length) refuse(['seeds'], `expected each seed once, got ${JSON.stringify(seeds)}`)
  if (budget.trials !== null && budget.trials < seeds.length)
    refuse(
      ['budget', 'trials'],
      `expected at least one point, which takes a trial for each of ${seeds.length} seeds, got ${budget.trials} trials`,
    )
  if (sampler.name !== 'grid' && budget.trials === null && budget.steps === null && budget.hours === null)
    refuse(['budget'], 'expected trials, steps or hours, got a sweep without end', 'for example budget: { trials: 24 }')
  // Optuna gives hyperband its brackets over all points, seen or not.
  if (deterministic && parallel > 1 && pruner.name === 'hyperband')
    refuse(['parallel'], `expected 1 for hyperband in a deterministic sweep, got ${parallel}`, 'or use asha')
}

function checkSampler({ sweep: { sampler, pruner }, axes }: Checked, refuse: Refuse): void {
  const ranges = axes.filter(({ kind, when }) => kind !== 'choice' && Object.keys(when).length === 0).length
  // With one range Optuna draws at random, and says nothing of it.
  if (sampler.name === 'cmaes' && ranges < 2)
    refuse(['sampler'], `expected two ranges or more without a condition for cmaes, got ${ranges}`, 'use tpe or gp')
  if (pruner.name !== 'threshold') return
  const { upper, lower } = pruner
  if (upper === null && lower === null) refuse(['pruner'], 'expected upper or lower for threshold, got neither')
  if (upper !== null && lower !== null && lower >= upper) refuse(['pruner'], `expected lower below upper, got ${lower} and ${upper}`)
}

/** Steps of the sweep lie within the stage, where its length is no axis. */
function checkSteps({ sweep: { objective, pruner }, axes, stage }: Checked, refuse: Refuse): void {
  if (axes.some(({ path }) => path === 'heldOut.everySteps'))
    refuse(
      ['space', 'heldOut', 'everySteps'],
      'expected a setting the sweep leaves alone, got the one it measures by',
      'see objective.everySteps',
    )
  if (axes.some(({ path }) => path === 'steps')) return
  const { steps } = stage
  if (objective.step !== null && objective.step > steps)
    refuse(['objective', 'step'], `expected a step of the stage, which has ${steps}, got ${objective.step}`)
  if (pruner.name !== 'none' && pruner.warmupSteps >= steps)
    refuse(
      ['pruner', 'warmupSteps'],
      `expected less than the ${steps} steps of the stage, got ${pruner.warmupSteps}: nothing would be given up`,
    )
}
