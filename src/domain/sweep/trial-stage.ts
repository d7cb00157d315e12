import { misfits } from '../stage/checks.ts'
import { setValueAt, valueAt } from '../stage/fields.ts'
import { type Stage, stageSchema } from '../stage/schema.ts'
import { readConstraint, readExpression } from './expression.ts'
import type { SweepFile } from './schema.ts'
import type { Values } from './space.ts'

/** The stage of a trial, or why its point is none. */
export type TrialStage = { readonly stage: Stage } | { readonly infeasible: string }

/** What a sweep says of its trials beside their points. */
export type TrialRules = Pick<SweepFile, 'derived' | 'constraints' | 'objective' | 'pruner'>

/** The stage of a point with a seed: settings of the axes, then derived ones; fields that contradict each other make it infeasible. */
export function trialStage(base: Stage, rules: TrialRules, values: Values, seed: number | null): TrialStage {
  const draft = structuredClone(base) as unknown as Record<string, unknown>
  for (const [path, value] of Object.entries(values)) setValueAt(draft, path, structuredClone(value))
  for (const [path, text] of Object.entries(rules.derived))
    setValueAt(draft, path, tidy(readExpression(text).compute((name) => named(draft, name))))
  if (seed !== null) draft.seed = seed
  const parsed = stageSchema.safeParse(draft)
  if (!parsed.success) {
    const [issue] = parsed.error.issues
    return { infeasible: `${issue?.path.join('.')}: ${issue?.message}` }
  }
  const [misfit] = misfits(parsed.data)
  if (misfit) return { infeasible: `${misfit.path}: ${misfit.text}` }
  const broken = rules.constraints.find((text) => !readConstraint(text).holds((name) => named(parsed.data, name)))
  if (broken !== undefined) return { infeasible: `${broken} does not hold` }
  return { stage: measured(parsed.data, rules) }
}

/** The same stage, measured at the steps at which trials are compared. */
function measured(stage: Stage, rules: TrialRules): Stage {
  const everySteps = measuredEvery(stage, rules)
  return { ...stage, heldOut: { ...stage.heldOut, everySteps } }
}

/** Steps between measurements: so that the objective's step and the pruner's rungs are among them; null measures at the ends alone. */
export function measuredEvery(stage: Stage, { objective, pruner }: Pick<TrialRules, 'objective' | 'pruner'>): number | null {
  const wanted = objective.everySteps ?? (pruner.name === 'none' ? stage.heldOut.everySteps : (firstRung(pruner) ?? tenth(stage)))
  const at = objective.step
  if (at === null || at >= stage.steps) return wanted
  return wanted === null ? at : commonDivisor(wanted, at)
}

function firstRung({ warmupSteps }: TrialRules['pruner']): number | null {
  return warmupSteps > 0 ? warmupSteps : null
}

function tenth({ steps, heldOut }: Stage): number {
  return heldOut.everySteps ?? Math.max(1, Math.floor(steps / 10))
}

function commonDivisor(a: number, b: number): number {
  return b === 0 ? a : commonDivisor(b, a % b)
}

/** The step at which a trial is compared: that of the objective, or its last. */
export function objectiveStep(stage: Stage, { objective }: Pick<TrialRules, 'objective'>): number {
  return Math.min(objective.step ?? stage.steps, stage.steps)
}

/** A setting, or a number that follows from settings. */
function named(stage: unknown, name: string): unknown {
  const number = (path: string) => Number(valueAt(stage, path))
  const ranks = (number('parallel.nodes') * number('parallel.processes')) / number('parallel.sequence')
  if (name === 'ranks') return ranks
  if (name === 'globalBatch') return number('batch.perDevice') * number('batch.accumulate') * ranks
  return valueAt(stage, name)
}

/** Without the noise of the last digits, so that a whole number is one. */
function tidy(value: number): number {
  return Number.isFinite(value) ? Number(value.toPrecision(12)) : value
}
