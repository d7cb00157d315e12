import type { Recipe } from '../config/recipe.ts'
import { UserError } from '../domain/errors.ts'
import type { RunEnd } from '../domain/run/state.ts'
import { bareSide, type StageSide } from '../domain/stage/origin.ts'
import { type Stage, stageSchema } from '../domain/stage/schema.ts'
import type { Run } from '../store/runs.ts'
import { continueRun, goodEnds, type Prepared, prepareRun, startRun } from './launch.ts'
import type { RunsWorld } from './world.ts'

/** What a chain tells while it goes on. */
export interface ChainWatcher {
  /** A stage is prepared and about to start, or was found. Returns false to leave the chain before it. */
  before(stage: Stage, prepared: Prepared): Promise<boolean>
  /** Starts a run that is not finished and follows it to its end. */
  follow(run: Run, start: () => Promise<void>): Promise<RunEnd | undefined>
}

/** The stages to train, complete, and the last of them to train. */
export interface ChainPlan {
  readonly recipe: string
  readonly stages: readonly Stage[]
  readonly until?: string | undefined
}

/** What a recipe trains. Raises UserError STAGE_UNKNOWN where it has no stage to end with of that name. */
export function chainPlan(recipe: Recipe, options: { until?: string | undefined; data?: string | undefined }): ChainPlan {
  const stages = recipe.stages.map((side) => withData(side, options.data).stage)
  const names = stages.map(({ name }) => name)
  if (options.until !== undefined && !names.includes(options.until)) {
    throw new UserError('STAGE_UNKNOWN', `${recipe.file}: expected the stage to end with, got ${options.until}`, {
      hint: `its stages are ${names.join(', ')}`,
    })
  }
  return { recipe: recipe.file, stages, until: options.until }
}

/**
 * Trains the stages of a chain one after another. A finished run of the same content (settings, data and starting weights) is taken
 * instead of trained again, one that trains now is followed, one that was broken off goes on, and an edited early stage makes the
 * later ones run anew. Stops at the first bad end and returns it.
 */
export async function trainChain(
  plan: ChainPlan,
  watcher: ChainWatcher,
  world: RunsWorld,
): Promise<{ runs: Map<string, Run>; end: RunEnd | undefined }> {
  const runs = new Map<string, Run>()
  for (const stage of plan.stages) {
    const recipe = { file: plan.recipe, stage: stage.name }
    const side = bareSide(stage.name, stage)
    const prepared = await prepareRun(side, { verb: 'train', earlier: runs, recipe, reuse: true }, world)
    runs.set(stage.name, prepared.run)
    if (!(await watcher.before(stage, prepared))) return { runs, end: undefined }
    if (prepared.found !== 'finished') {
      const end = await watcher.follow(prepared.run, () => startFound(prepared, world))
      if (!end || !goodEnds.includes(end.reason)) return { runs, end }
    }
    if (stage.name === plan.until) break
  }
  return { runs, end: undefined }
}

/** Starts what was found or made, so that it trains; nothing where it does. */
export async function startFound({ run, found }: Prepared, world: RunsWorld): Promise<void> {
  if (found === 'new') await startRun(run, world)
  if (found === 'unfinished') await continueRun(run, world)
}

/** The stage with the clips of `--data`, which outranks what a file names. */
export function withData(side: StageSide, data: string | undefined): StageSide {
  if (data === undefined) return side
  return { ...side, stage: stageSchema.parse({ ...side.stage, data: { ...side.stage.data, source: data } }) }
}
