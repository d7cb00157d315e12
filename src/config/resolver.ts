import { nearestName } from '../domain/nearest.ts'
import type { StagePath } from '../domain/stage/schema.ts'
import {
  type CompletedStage,
  completed,
  defaultLayers,
  type Layers,
  push,
  pushAll,
  pushLayer,
  pushTrial,
  type TrialSettings,
} from './layers.ts'
import { errorOf } from './problems.ts'
import type { Named, RecipeSource, StageSource } from './recipe-file.ts'
import type { SetOption } from './set-option.ts'
import { besideFile, type Sources } from './source.ts'

/** A stage of a recipe with every layer applied. */
export interface ResolvedStage extends CompletedStage {
  readonly provenance: Readonly<Record<string, unknown>>
  /** Name of the stage it extends; null where it extends none. */
  readonly parentName: string | null
}

/** Fields that describe a stage itself and are not handed to the stages that extend it. */
const ownFields: ReadonlySet<StagePath> = new Set(['name', 'notes'])

/** Applies the layers to the stages of one load. */
export class Resolver {
  readonly #sources: Sources
  readonly #set: readonly SetOption[]
  readonly #trial: TrialSettings | undefined
  readonly #given = new Map<StageSource, Layers>()

  constructor(sources: Sources, set: readonly SetOption[], trial: TrialSettings | undefined) {
    this.#sources = sources
    this.#set = set
    this.#trial = trial
  }

  resolve(recipe: RecipeSource, stage: StageSource): ResolvedStage {
    const layers = defaultLayers()
    pushAll(layers, this.#givenTo(recipe, stage, []))
    if (this.#trial) pushTrial(layers, this.#trial)
    for (const option of this.#set) {
      if (option.stage === undefined || option.stage === stage.name)
        pushLayer(layers, option.layer, (place) => ({ layer: 'command line', name: place.file }))
    }
    const parentName = stage.extends ? this.#parent(stage.extends, recipe).stage.name : null
    return { ...completed(layers, `${recipe.file}#${stage.name}`), provenance: stage.provenance, parentName }
  }

  /** What presets, parents and the file give a stage, weakest first. */
  #givenTo(recipe: RecipeSource, stage: StageSource, children: readonly string[]): Layers {
    const known = this.#given.get(stage)
    if (known) return known
    const address = `${recipe.file}#${stage.name}`
    if (children.includes(address)) throw cycle([...children.slice(children.indexOf(address)), address], stage)
    if (children.length > longestChain) throw tooLong(stage)
    const layers: Layers = new Map()
    for (const preset of [...recipe.presets, ...stage.presets]) {
      pushLayer(layers, this.#sources.preset(besideFile(recipe.file, preset.text), preset), (place) => ({
        layer: 'preset',
        ...place,
      }))
    }
    if (stage.extends) this.#inherit(layers, stage.extends, recipe, [...children, address])
    pushLayer(layers, stage.layer, (place) => ({ layer: 'file', ...place }))
    this.#given.set(stage, layers)
    return layers
  }

  #inherit(layers: Layers, parent: Named, recipe: RecipeSource, children: readonly string[]): void {
    const { recipe: home, stage } = this.#parent(parent, recipe)
    const named = (name: string) => (home === recipe || name.includes('#') ? name : `${home.file}#${name}`)
    for (const [path, values] of this.#givenTo(home, stage, children)) {
      if (ownFields.has(path)) continue
      for (const value of values)
        push(layers, path, {
          value: value.value,
          origin: { ...value.origin, layer: 'parent stage' },
          from: named(value.from ?? stage.name),
        })
    }
  }

  #parent(named: Named, recipe: RecipeSource): { recipe: RecipeSource; stage: StageSource } {
    const { text, place, path } = named
    const hash = text.lastIndexOf('#')
    const inFile = hash >= 0 || /\.ya?ml$/.test(text)
    const home = inFile ? this.#sources.recipe(besideFile(recipe.file, hash >= 0 ? text.slice(0, hash) : text), named) : recipe
    const name = inFile ? (hash >= 0 ? text.slice(hash + 1) : onlyStage(home)) : text
    const stage = home.stages.find((candidate) => candidate.name === name)
    if (stage) return { recipe: home, stage }
    const names = home.stages.map((candidate) => candidate.name)
    const near = nearestName(name ?? '', names)
    const hint = near ? `did you mean \`${near}\`?` : 'write the name of a stage, or FILE.yaml#STAGE'
    throw errorOf([
      { code: 'CONFIG_PARENT', place, path, text: `expected a stage of ${home.file} (${names.join(', ')}), got ${text}`, hint },
    ])
  }
}

function onlyStage({ stages }: RecipeSource): string | undefined {
  return stages.length === 1 ? stages[0]?.name : undefined
}

/** Stages one may extend through another; published chains have ten. */
const longestChain = 200

function tooLong({ place, written }: StageSource) {
  return errorOf([
    { code: 'CONFIG_CYCLE', place, path: `${written}.extends`, text: `expected at most ${longestChain} parents in a row, got more` },
  ])
}

function cycle(addresses: readonly string[], stage: StageSource) {
  const place = stage.extends?.place ?? stage.place
  const text = `expected a chain that ends, got a circle: ${addresses.join(' → ')}`
  return errorOf([
    { code: 'CONFIG_CYCLE', place, path: `${stage.written}.extends`, text, hint: 'let one of these stages extend another stage, or none' },
  ])
}
