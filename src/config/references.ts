import { nearestName } from '../domain/nearest.ts'
import { misfits } from '../domain/stage/checks.ts'
import { valueAt } from '../domain/stage/fields.ts'
import type { StagePath } from '../domain/stage/schema.ts'
import { Problems } from './problems.ts'
import type { RecipeSource } from './recipe-file.ts'
import type { ResolvedStage } from './resolver.ts'

/** Refuses `stage:NAME` where NAME is no earlier stage of the recipe. */
export function refuseForeignStages(recipe: RecipeSource, stages: readonly ResolvedStage[]): void {
  const problems = new Problems()
  for (const [place, side] of stages.entries()) {
    const earlier = stages.slice(0, place).map(({ stage }) => stage.name)
    for (const path of ['init.weights', 'vae.weights']) {
      const weights = valueAt(side.stage, path)
      if (typeof weights !== 'string' || !weights.startsWith('stage:')) continue
      const name = weights.slice('stage:'.length)
      if (earlier.includes(name)) continue
      const near = nearestName(name, earlier)
      const text = `expected an earlier stage of this recipe (${earlier.join(', ') || 'there is none'}), got ${weights}`
      problems.add({
        code: 'CONFIG_STAGE',
        ...whereOf(side, path, recipe, place),
        text,
        ...(near ? { hint: `did you mean \`stage:${near}\`?` } : {}),
      })
    }
  }
  problems.refuse()
}

/** Refuses fields that contradict each other. */
export function refuseMisfits(recipe: RecipeSource, stages: readonly ResolvedStage[]): void {
  const problems = new Problems()
  for (const [place, side] of stages.entries()) {
    for (const { code, path, text, hint } of misfits(side.stage)) {
      problems.add({ code, ...whereOf(side, path, recipe, place), text, ...(hint ? { hint } : {}) })
    }
  }
  problems.refuse()
}

/** Where a field of a stage was written; the stage itself where nothing wrote it. */
function whereOf(side: ResolvedStage, path: StagePath, recipe: RecipeSource, index: number) {
  const field = [...side.origins].find(([known]) => path === known || path.startsWith(`${known}[`))
  const origin = field?.[1]
  const source = recipe.stages[index]
  const place =
    origin?.file !== undefined && origin.line !== undefined && origin.column !== undefined
      ? { file: origin.file, line: origin.line, column: origin.column }
      : origin?.name !== undefined
        ? { file: origin.name }
        : (source?.place ?? { file: recipe.file })
  return { place, path: `${source?.written ?? side.stage.name}.${path}` }
}
