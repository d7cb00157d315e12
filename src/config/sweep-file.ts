import { createHash } from 'node:crypto'
import { nearestName } from '../domain/nearest.ts'
import { valueAt } from '../domain/stage/fields.ts'
import { type Stage, stageSchema } from '../domain/stage/schema.ts'
import { type Axis, type SweepFile, sweepSchema } from '../domain/sweep/schema.ts'
import { orderedAxes } from '../domain/sweep/space.ts'
import { type Located, locatedOf, placeInside, plainValue } from './located.ts'
import { errorOf, type Place, Problems } from './problems.ts'
import { loadRecipe, type Recipe } from './recipe.ts'
import type { ResolvedStage } from './resolver.ts'
import { besideFile, type ReadFile, readConfigFile, readNamed } from './source.ts'
import { checkSweep } from './sweep-checks.ts'
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
  const swept = stages.at(-1)
  if (!swept) throw new Error('a sweep without stages')
  checkSweep({ sweep, axes, stage: swept.stage }, node, problems)
  problems.refuse()
  return { file, sweep: { ...sweep, data: data ?? null }, axes: orderedAxes(axes), stages }
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
