import { createHash } from 'node:crypto'
import { nearestName } from '../domain/nearest.ts'
import { stageFields, valueAt } from '../domain/stage/fields.ts'
import { type Stage, stageSchema } from '../domain/stage/schema.ts'
import { readConstraint, readExpression } from '../domain/sweep/expression.ts'
import { type Axis, type SweepFile, sweepSchema } from '../domain/sweep/schema.ts'
import { gridPoints, orderedAxes } from '../domain/sweep/space.ts'
import { type Located, locatedOf, placeInside, plainValue } from './located.ts'
import { errorOf, type Place, Problems } from './problems.ts'
import { loadRecipe, type Recipe } from './recipe.ts'
import type { ResolvedStage } from './resolver.ts'
import { besideFile, type ReadFile, readConfigFile, readNamed } from './source.ts'
import { addIssue, axesOf } from './sweep-space.ts'
import { readYaml } from './yaml.ts'

/** A sweep read and checked: its axes in order, and the stages it trains. */
export interface LoadedSweep {
  readonly file: string
  readonly sweep: SweepFile
  readonly axes: readonly Axis[]
  /** Stages that the swept one needs, in the order of the recipe; the swept one is the last. */
  readonly stages: readonly ResolvedStage[]
}

export interface SweepOptions {
  readonly readFile?: ReadFile
  /** Clips that outrank what the file names. */
  readonly data?: string | undefined
}

/** Reads a sweep from its YAML. Raises UserErrors CONFIG_… with places, and SWEEP_…. */
export function loadSweep(file: string, options: SweepOptions = {}): LoadedSweep {
  const readFile = options.readFile ?? readConfigFile
  return sweepOf(readYaml(readNamed(file, readFile, { hint: 'configs/sweeps has one to start from' }), file), file, {
    ...options,
    readFile,
  })
}

/** A sweep that a script wrote. Paths in it count from the current folder. */
export function sweepFrom(value: unknown, options: SweepOptions = {}): LoadedSweep {
  return sweepOf(locatedOf(value, { file: 'sweep' }), 'sweep', options)
}

/** A stage of a sweep's recipe with the clips of the sweep. */
function sweepOf(node: Located, file: string, options: SweepOptions): LoadedSweep {
  const problems = new Problems()
  const sweep = parsed(node, problems)
  problems.refuse()
  if (!sweep) throw new Error('a sweep that is wrong was not refused')
  const data = options.data ?? sweep.data ?? undefined
  const recipe = loadRecipe(besideFile(file, sweep.recipe), {
    ...(options.readFile ? { readFile: options.readFile } : {}),
    set: sweep.set,
    refuseMisfits: false,
  })
  const stages = neededStages(recipe, sweep, placeInside(node, ['stage'])).map((side) => withClips(side, data))
  const axes = axesOf(sweep, node, problems)
  checkDerived(sweep, axes, node, problems)
  problems.refuse()
  const ordered = orderedAxes(axes)
  if (sweep.sampler.name === 'grid') gridPoints(ordered)
  refuseEndless(sweep, placeInside(node, ['budget']))
  refuseNarrow(sweep, axes, placeInside(node, ['sampler']))
  refuseUnordered(sweep, placeInside(node, ['parallel']))
  return { file, sweep: { ...sweep, data: data ?? null }, axes: ordered, stages }
}

function parsed(node: Located, problems: Problems): SweepFile | undefined {
  const result = sweepSchema.safeParse(plainValue(node))
  if (result.success) return result.data
  for (const issue of result.error.issues) addIssue(issue, node, '', Object.keys(sweepSchema.shape), problems)
  return undefined
}

/** The swept stage and those it starts from, directly or not. */
function neededStages(recipe: Recipe, { stage: name }: SweepFile, place: Place): ResolvedStage[] {
  const names = recipe.stages.map(({ stage }) => stage.name)
  const last = recipe.stages.findIndex(({ stage }) => stage.name === name)
  if (last < 0) {
    const near = nearestName(name, names)
    const text = `expected a stage of ${recipe.file} (${names.join(', ')}), got ${name}`
    throw errorOf([{ code: 'CONFIG_STAGE', place, path: 'stage', text, ...(near ? { hint: `did you mean \`${near}\`?` } : {}) }])
  }
  const needed = new Set([name])
  for (const { stage } of recipe.stages.slice(0, last + 1).reverse()) {
    if (!needed.has(stage.name)) continue
    for (const path of ['init.weights', 'vae.weights']) {
      const parent = /^stage:(.+)$/.exec(String(valueAt(stage, path)))?.[1]
      if (parent !== undefined) needed.add(parent)
    }
  }
  return recipe.stages.slice(0, last + 1).filter(({ stage }) => needed.has(stage.name))
}

function withClips(side: ResolvedStage, data: string | undefined): ResolvedStage {
  if (data === undefined) return side
  return { ...side, stage: stageSchema.parse({ ...side.stage, data: { ...side.stage.data, source: data } }) }
}

/** Derived settings and constraints name settings, and no setting is both an axis and derived. */
function checkDerived({ derived, constraints }: SweepFile, axes: readonly Axis[], node: Located, problems: Problems): void {
  const axisPaths = new Set(axes.map(({ path }) => path))
  const check = (text: string, keys: readonly PropertyKey[], read: (text: string) => { names: readonly string[] }) => {
    const place = placeInside(node, keys)
    for (const name of read(text).names.filter((name) => !expressionNames.has(name) && !stageFields().has(name))) {
      const near = nearestName(name, stageFields().keys())
      problems.add({
        code: 'CONFIG_INVALID',
        place,
        path: keys.join('.'),
        text: `expected settings, got ${name}`,
        ...(near ? { hint: `did you mean \`${near}\`?` } : {}),
      })
    }
  }
  for (const [path, text] of Object.entries(derived)) {
    check(text, ['derived', path], readExpression)
    const wrong = !stageFields().has(path) ? 'no setting' : axisPaths.has(path) ? 'an axis' : undefined
    if (wrong)
      problems.add({
        code: 'CONFIG_INVALID',
        place: placeInside(node, ['derived', path]),
        path: `derived.${path}`,
        text: `expected a setting beside the axes, got ${wrong}`,
      })
  }
  for (const [place, text] of constraints.entries()) check(text, ['constraints', place], readConstraint)
}

/** Names an expression may use beside settings. */
const expressionNames: ReadonlySet<string> = new Set(['globalBatch', 'ranks'])

/** CMA-ES adapts to how ranges vary together: with one of them Optuna draws at random, and says nothing of it. */
function refuseNarrow({ sampler }: SweepFile, axes: readonly Axis[], place: Place): void {
  const ranges = axes.filter(({ kind, when }) => kind !== 'choice' && Object.keys(when).length === 0).length
  if (sampler.name !== 'cmaes' || ranges >= 2) return
  const text = `expected two ranges or more without a condition for cmaes, got ${ranges}`
  throw errorOf([{ code: 'CONFIG_INVALID', place, path: 'sampler', text, hint: 'use tpe or gp' }])
}

/** Optuna gives hyperband its brackets over all points, seen or not. */
function refuseUnordered({ deterministic, parallel, pruner }: SweepFile, place: Place): void {
  if (!deterministic || parallel === 1 || pruner.name !== 'hyperband') return
  const text = `expected 1 for hyperband in a deterministic sweep, got ${parallel}`
  throw errorOf([{ code: 'CONFIG_INVALID', place, path: 'parallel', text, hint: 'or use asha' }])
}

function refuseEndless({ sampler, budget }: SweepFile, place: Place): void {
  if (sampler.name === 'grid' || budget.trials !== null || budget.steps !== null || budget.hours !== null) return
  const text = 'expected trials, steps or hours, got a sweep without end'
  throw errorOf([{ code: 'CONFIG_INVALID', place, path: 'budget', text, hint: 'for example budget: { trials: 24 }' }])
}

/** A hash over all that decides what a sweep's trials are: with another one its results do not belong together. */
export function sweepHash({ sweep, axes, stages }: { sweep: SweepFile; axes: readonly unknown[]; stages: readonly Stage[] }): string {
  const {
    name: _name,
    notes: _notes,
    budget: _budget,
    parallel: _parallel,
    retries: _retries,
    warmPool: _pool,
    recipe: _recipe,
    space: _space,
    ...rest
  } = sweep
  return createHash('sha256')
    .update(JSON.stringify([rest, axes, stages]))
    .digest('hex')
}
