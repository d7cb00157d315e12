import type { Recipe } from '../config/recipe.ts'
import { UserError } from '../domain/errors.ts'
import type { RunEnd } from '../domain/run/state.ts'
import type { StageSide } from '../domain/stage/origin.ts'
import { stageSchema } from '../domain/stage/schema.ts'
import type { Run } from '../store/runs.ts'
import { type Prepared, prepareRun, startRun } from './launch.ts'
import type { RunsWorld } from './world.ts'

const good: readonly RunEnd['reason'][] = ['completed', 'plateau', 'data-exhausted']

/** What a chain tells while it goes on. */
export interface ChainWatcher {
  /** A stage is prepared and about to start, or was found finished. Returns false to leave the chain before it. */
  before(side: StageSide, prepared: Prepared): Promise<boolean>
  /** Starts a run and follows it to its end. */
  follow(run: Run, start: () => Promise<void>): Promise<RunEnd | undefined>
}

export interface ChainOptions {
  /** Train only up to and including this stage. */
  readonly until?: string
  /** Data of all stages that name none. */
  readonly data?: string | undefined
}

/**
 * Trains the stages of a recipe one after another. A finished run of the same content (settings, data and starting weights) is
 * taken instead of trained again, one that trains now is followed, and an edited early stage makes the later ones run anew. Stops at the first bad end.
 */
export async function trainChain(
  recipe: Recipe,
  options: ChainOptions,
  watcher: ChainWatcher,
  world: RunsWorld,
): Promise<{ runs: Map<string, Run>; end: RunEnd | undefined }> {
  const names = recipe.stages.map(({ stage }) => stage.name)
  if (options.until !== undefined && !names.includes(options.until)) {
    throw new UserError('STAGE_UNKNOWN', `${recipe.file}: expected the stage to end with, got ${options.until}`, {
      hint: `its stages are ${names.join(', ')}`,
    })
  }
  const runs = new Map<string, Run>()
  for (const resolved of recipe.stages) {
    const side = withData(resolved, options.data)
    const recipeOf = { file: recipe.file, stage: side.stage.name }
    const prepared = await prepareRun(side, { verb: 'train', earlier: runs, recipe: recipeOf, reuse: true }, world)
    runs.set(side.stage.name, prepared.run)
    if (!(await watcher.before(side, prepared))) return { runs, end: undefined }
    if (!prepared.isReused) {
      const end = await watcher.follow(prepared.run, async () => {
        if (!prepared.isTraining) await startRun(prepared.run, world)
      })
      if (!end || !good.includes(end.reason)) return { runs, end }
    }
    if (side.stage.name === options.until) break
  }
  return { runs, end: undefined }
}

/** The stage with the clips of `--data`, which outranks what a file names. */
export function withData(side: StageSide, data: string | undefined): StageSide {
  if (data === undefined) return side
  return { ...side, stage: stageSchema.parse({ ...side.stage, data: { ...side.stage.data, source: data } }) }
}
