import { resolve } from 'node:path'
import { withSetOptions } from '../config/overlay.ts'
import { loadRecipe, type Recipe } from '../config/recipe.ts'
import type { ResolvedStage } from '../config/resolver.ts'
import { readConfigFile } from '../config/source.ts'
import { UserError } from '../domain/errors.ts'
import { nearestName } from '../domain/nearest.ts'
import { defaultStage, stageFields } from '../domain/stage/fields.ts'
import type { StageSide } from '../domain/stage/origin.ts'
import { type Address, parseAddress } from './address.ts'

/** Where addresses are looked up. */
export interface AddressContext {
  /** Folder that files of the address count from. */
  readonly cwd: string
  /** Folder of the runs. */
  readonly runsFolder: string
  /** Checkout of Open-Sora-Plan that `v1.3.1:PATH` is read from. */
  readonly upstreamCheckout?: string | undefined
  /** Version of upstream's trainer that scripts were written for, where it should not be detected. */
  readonly trainer?: string | undefined
  /** `--set` options that come on top. */
  readonly set?: readonly string[]
}

/** The one stage an address names. Raises UserErrors ADDRESS_… and those of what it is read from. */
export async function resolveSide(address: string, context: AddressContext): Promise<StageSide> {
  const parsed = parseAddress(address)
  if (parsed.kind === 'recipe') return stageOf(loadFrom(parsed, context), parsed.stage, address)
  const sides = await sidesOf(parsed, address, context)
  return onlySide(sides, address)
}

/** Every stage an address names: all of a recipe, all commands of a script, or the one stage of anything else. */
export async function resolveSides(address: string, context: AddressContext): Promise<readonly StageSide[]> {
  const parsed = parseAddress(address)
  if (parsed.kind !== 'recipe') return sidesOf(parsed, address, context)
  const recipe = loadFrom(parsed, context)
  return parsed.stage === undefined ? recipe.stages : [stageOf(recipe, parsed.stage, address)]
}

/** A recipe, or one stage of it, with layers for explanations. */
export function resolveRecipe(
  address: string,
  context: Pick<AddressContext, 'cwd' | 'set'>,
): { recipe: Recipe; stages: readonly ResolvedStage[] } {
  const parsed = parseAddress(address)
  if (parsed.kind !== 'recipe') {
    throw new UserError(
      'ADDRESS_INVALID',
      `${address}: expected FILE.yaml or FILE.yaml#STAGE, got ${parsed.kind === 'run' ? 'something else' : `a ${parsed.kind}`}`,
    )
  }
  const recipe = loadFrom(parsed, context)
  return { recipe, stages: parsed.stage === undefined ? recipe.stages : [stageOf(recipe, parsed.stage, address)] }
}

type RecipeAddress = Extract<Address, { kind: 'recipe' }>

function loadFrom({ file, stage }: RecipeAddress, { cwd, set = [] }: Pick<AddressContext, 'cwd' | 'set'>): Recipe {
  return loadRecipe(file, { readFile: (path) => readConfigFile(resolve(cwd, path)), set, only: stage })
}

function stageOf({ file, stages }: Recipe, name: string | undefined, address: string): ResolvedStage {
  const names = stages.map(({ stage }) => stage.name)
  const found = name === undefined && stages.length === 1 ? stages[0] : stages.find(({ stage }) => stage.name === name)
  if (found) return found
  const near = name === undefined ? undefined : nearestName(name, names)
  const hint = `write ${file}#${near ?? names.at(-1)}`
  const got = name === undefined ? `${names.length} of them` : name
  throw new UserError('ADDRESS_STAGE', `${address}: expected one stage of ${names.join(', ')}, got ${got}`, { hint })
}

function onlySide(sides: readonly StageSide[], address: string): StageSide {
  const [side, ...others] = sides
  if (side && others.length === 0) return side
  throw new UserError('ADDRESS_STAGE', `${address}: expected one stage, got ${sides.length}: ${sides.map(({ label }) => label).join(', ')}`)
}

async function sidesOf(
  address: Exclude<Address, { kind: 'recipe' }>,
  text: string,
  context: AddressContext,
): Promise<readonly StageSide[]> {
  const sides = await readSides(address, text, context)
  return context.set?.length ? sides.map((side) => withSetOptions(side, context.set ?? [])) : sides
}

async function readSides(
  address: Exclude<Address, { kind: 'recipe' }>,
  text: string,
  context: AddressContext,
): Promise<readonly StageSide[]> {
  switch (address.kind) {
    case 'defaults':
      return [
        address.version === undefined ? ourDefaults(text) : (await import('./script-sides.ts')).trainerDefaults(address.version, text),
      ]
    case 'script':
    case 'upstream script': {
      const { findScript, someLaunchesOf } = await import('./script-sides.ts')
      return someLaunchesOf(findScript(address, text, context), text)
    }
    case 'run':
      return [(await import('./run-side.ts')).runSide(context.runsFolder, address.run, address.checkpoint)]
    case 'catalogue':
      return [(await import('./catalogue.ts')).catalogueStage(`${address.version}/${address.name}`)]
  }
}

function ourDefaults(label: string): StageSide {
  const origins = new Map([...stageFields().keys()].map((path) => [path, { layer: 'schema default' } as const]))
  return { label, stage: defaultStage(), origins, findings: [] }
}
