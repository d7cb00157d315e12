import { dirname, join, relative, resolve } from 'node:path'
import { recipeText } from '../config/suggested-recipe.ts'
import { UserError } from '../domain/errors.ts'
import { setValueAt } from '../domain/stage/fields.ts'
import type { StageSide } from '../domain/stage/origin.ts'
import { type Stage, stageSchema } from '../domain/stage/schema.ts'
import { type Means, memorySteps, type SuggestedSetting, suggestedSettings, unknowns } from '../domain/suggestion.ts'
import { findRun } from '../store/runs.ts'
import { parseAddress } from './address.ts'
import { type AddressContext, resolveSide } from './addresses.ts'
import { catalogueFolder, catalogueStage } from './catalogue.ts'
import { planStage } from './plan.ts'
import type { RunsWorld } from './world.ts'

const placeholder = 'PATH/TO/WEIGHTS'

/** Share of a GPU's memory that a plan may fill: the rest is fragments, workspaces and the context. */
const usable = 0.9

export interface Suggestion {
  readonly settings: readonly SuggestedSetting[]
  /** Bytes a rank needs, as the plan estimates it, and the share it may be off by. */
  readonly memory: { readonly bytes: number; readonly error: number; readonly fits: boolean }
  readonly trainable: { readonly parameters: number; readonly share: number }
  readonly unknowns: readonly string[]
  readonly recipe: string
}

/** `1x24GB`: how many GPUs of how much memory. Raises UserError GPUS_FORM. */
export function parseGpus(text: string): { gpus: number; gpuBytes: number } {
  const [, count = '', size = ''] = /^(\d+)x(\d+(?:\.\d+)?)GB$/i.exec(text) ?? []
  const [gpus, gigabytes] = [Number(count), Number(size)]
  if (!(gpus > 0 && gigabytes > 0))
    throw new UserError('GPUS_FORM', `--gpus: expected COUNTxMEMORY, got ${text}`, { hint: 'for example 1x24GB' })
  return { gpus, gpuBytes: gigabytes * 2 ** 30 }
}

/**
 * A starting recipe for fine-tuning a stage on few clips, made to fit: memory comes from the plan of each candidate. `weights` is
 * where the parent's weights lie, where the address does not say so. Raises UserErrors CLIPS_FEW and SUGGEST_FROM.
 */
export async function suggest(
  from: string,
  means: Means,
  options: { weights: string | undefined; vae: string | undefined; output: string },
  context: AddressContext,
  world: RunsWorld,
): Promise<Suggestion> {
  if (!Number.isInteger(means.clips) || means.clips < 8) {
    throw new UserError('CLIPS_FEW', `--clips: expected at least 8 clips, got ${means.clips}`, {
      hint: 'four of them are held out; fewer teach nothing that can be measured',
    })
  }
  const parent = await resolveSide(from, context)
  const base = suggestedSettings(parent.stage, means)
  const fitted = await fittedTo(parent, base, means, world)
  const where = parentOf(from, parent.stage.name, options, context)
  const open =
    where.weights === placeholder ? [`where the weights of ${from} lie: write it in place of ${placeholder}`, ...unknowns] : unknowns
  return {
    ...fitted,
    unknowns: open,
    recipe: recipeText({
      name: `${parent.stage.name}-fine-tune`,
      extends: where.extends,
      init: { weights: where.weights, use: where.use },
      vae: parent.stage.kind === 'vae' ? undefined : (options.vae ?? where.vae),
      settings: fitted.settings,
      head: [
        `Fine-tunes ${from} on ${means.clips} clips with ${means.gpus} × ${means.gpuBytes / 2 ** 30} GB.`,
        ...open.map((line) => `Not known: ${line}.`),
      ],
    }),
  }
}

/** The base settings with as many of the memory steps as it takes. */
async function fittedTo(parent: StageSide, base: readonly SuggestedSetting[], means: Means, world: RunsWorld) {
  const steps = memorySteps(parent.stage, means)
  for (let taken = 0; ; taken += 1) {
    const settings = merged([...base, ...steps.slice(0, taken).flat()])
    const stage = withSettings(parent.stage, settings)
    const { answers } = await planStage({ ...parent, stage }, world)
    const { total: bytes, error } = answers.memory
    const fits = bytes <= usable * means.gpuBytes
    const [first] = answers.parameters.phases
    const trainable = { parameters: first?.trainable ?? 0, share: first?.share ?? 0 }
    if (fits || taken === steps.length) return { settings, memory: { bytes, error, fits }, trainable }
  }
}

/** Later settings replace earlier ones of the same path, in the earlier one's place. */
function merged(settings: readonly SuggestedSetting[]): SuggestedSetting[] {
  return [...new Map(settings.map((setting) => [setting.path, setting])).values()]
}

/** The parent's settings with the suggested ones. Its data and weights need not be here: what is asked does not depend on them. */
function withSettings(parent: Stage, settings: readonly SuggestedSetting[]): Stage {
  const stage = structuredClone(parent) as object
  for (const { path, value } of settings) setValueAt(stage, path, value)
  setValueAt(stage, 'data.source', null)
  setValueAt(stage, 'init.weights', null)
  return stageSchema.parse(stage)
}

/** What the new stage extends and starts from, as its file will see it. */
function parentOf(
  from: string,
  name: string,
  { weights, output }: { weights: string | undefined; output: string },
  context: AddressContext,
) {
  const address = parseAddress(from)
  const folder = dirname(resolve(context.cwd, output))
  const seen = (file: string, stage: string) => `${relative(folder, file)}#${stage}`
  switch (address.kind) {
    case 'recipe': {
      return { extends: seen(resolve(context.cwd, address.file), name), weights: weights ?? placeholder, use: 'ema', vae: undefined }
    }
    case 'catalogue': {
      const { file, stage } = catalogueStage(from)
      return {
        extends: seen(join(catalogueFolder(), '..', '..', file), stage.name),
        weights: weights ?? placeholder,
        use: 'raw',
        vae: 'PATH/TO/VAE',
      }
    }
    case 'run': {
      const run = findRun(context.runsFolder, address.run)
      const { recipe } = run.identity
      if (recipe) {
        const at = address.checkpoint === undefined ? run.id : `${run.id}@${address.checkpoint}`
        return {
          extends: seen(resolve(context.cwd, recipe.file), recipe.stage),
          weights: weights ?? at,
          use: run.stage.ema.enabled ? 'ema' : 'raw',
          vae: run.identity.inputs.vae ?? undefined,
        }
      }
      break
    }
    default:
  }
  throw new UserError('SUGGEST_FROM', `--from ${from}: expected a stage that a recipe can extend, got one without a file of its own`, {
    hint: 'name FILE.yaml#STAGE, a stage of the catalogue (stagewright stages), or a run of a recipe',
  })
}
