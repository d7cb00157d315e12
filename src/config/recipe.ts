import type { TrialSettings } from './layers.ts'
import { refuseForeignStages, refuseMisfits } from './references.ts'
import { type ResolvedStage, Resolver } from './resolver.ts'
import { readSetOptions, refuseUnknownStages } from './set-option.ts'
import { type ReadFile, readConfigFile, Sources } from './source.ts'

export interface Recipe {
  readonly file: string
  readonly name: string
  readonly notes: string
  readonly provenance: Readonly<Record<string, unknown>>
  readonly stages: readonly ResolvedStage[]
}

export interface LoadOptions {
  /** Reads a file by the path a person or a recipe wrote; paths count from the working directory. */
  readonly readFile?: ReadFile
  /** `--set` options, later ones winning. */
  readonly set?: readonly string[]
  /** The stage that `--set` options without one are for; every stage else. */
  readonly only?: string | undefined
  readonly trial?: TrialSettings
  /** Whether fields that contradict each other are refused; default true. Published stages are kept as they were published. */
  readonly refuseMisfits?: boolean
}

/**
 * A recipe with every stage complete: schema default < presets in listed order < parent stage < file < trial < --set.
 * Sections merge field by field; lists and records replace. Raises UserErrors CONFIG_… and those of the stage checks, with places.
 */
export function loadRecipe(file: string, options: LoadOptions = {}): Recipe {
  const sources = new Sources(options.readFile ?? readConfigFile)
  const recipe = sources.recipe(file)
  const set = readSetOptions(options.set ?? [], options.only)
  refuseUnknownStages(
    set,
    recipe.stages.map(({ name }) => name),
  )
  const resolver = new Resolver(sources, set, options.trial)
  const stages = recipe.stages.map((stage) => resolver.resolve(recipe, stage))
  refuseForeignStages(recipe, stages)
  if (options.refuseMisfits !== false) refuseMisfits(recipe, stages)
  const { name, notes, provenance } = recipe
  return { file, name, notes, provenance, stages }
}

/** What a file holds, with the names of its stages. */
export type CheckedFile = { readonly kind: 'recipe'; readonly stages: readonly string[] } | { readonly kind: 'preset' }

/** Reads a recipe or a preset for its mistakes alone. Raises the errors of `loadRecipe`. */
export function checkFile(file: string, options: LoadOptions = {}): CheckedFile {
  const sources = new Sources(options.readFile ?? readConfigFile)
  if (sources.isPreset(file)) {
    sources.preset(file)
    return { kind: 'preset' }
  }
  return { kind: 'recipe', stages: loadRecipe(file, options).stages.map(({ stage }) => stage.name) }
}
