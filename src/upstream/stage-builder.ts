import { defaultStage, fieldOf, stageFields } from '../domain/stage/fields.ts'
import type { Origin } from '../domain/stage/origin.ts'
import type { Stage, StagePath } from '../domain/stage/schema.ts'
import type { Settings } from './flag-fields.ts'
import { fitsLeaf } from './leaf-schemas.ts'
import type { FlagValue } from './trainer.ts'

const fresh = defaultStage()
const freshText = JSON.stringify(fresh)
const schemaDefault: Origin = { layer: 'schema default' }
const allDefaults: ReadonlyMap<StagePath, Origin> = new Map([...stageFields().keys()].map((path) => [path, schemaDefault]))

/** A stage while it is put together, and where each value came from. */
export class StageBuilder {
  readonly origins = new Map<StagePath, Origin>(allDefaults)
  readonly flagNames = new Map<StagePath, string>()
  /** Fields whose value the schema refused, with the value. */
  readonly refused = new Map<StagePath, unknown>()
  private readonly stage: Stage
  /** Fields that were set and are not yet checked. */
  private readonly touched = new Set<StagePath>(['name'])

  constructor(name: string) {
    this.stage = { ...(JSON.parse(freshText) as Stage), name }
  }

  set(settings: Settings, origin: Origin): void {
    for (const path in settings) {
      const value = settings[path]
      if (value === undefined) continue
      put(this.stage, path, value)
      const leaf = leafOf(path)
      this.touched.add(leaf)
      if (origin.layer === 'trainer default' && path !== leaf && this.origins.get(leaf)?.layer === 'script') continue
      this.origins.set(leaf, origin)
      if (origin.name !== undefined && origin.layer !== 'environment') this.flagNames.set(leaf, origin.name)
    }
  }

  keep(name: string, value: FlagValue, origin: Origin): void {
    ;(this.stage.upstream as Record<string, FlagValue>)[name] = value
    this.origins.set(`upstream.${name}`, origin)
  }

  peek(): Stage {
    return this.stage
  }

  /** The complete stage. Values the schema refuses fall back to its defaults and stand in `refused`. */
  build(): Stage {
    for (const leaf of this.touched) {
      const value = at(this.stage, leaf)
      if (fitsLeaf(leaf, value)) continue
      this.refused.set(leaf, value)
      put(this.stage, leaf, structuredClone(at(fresh, leaf)))
      this.origins.set(leaf, schemaDefault)
    }
    this.touched.clear()
    return this.stage
  }
}

const leaves = new Map<StagePath, StagePath>()

/** The field a path belongs to. */
function leafOf(path: StagePath): StagePath {
  const known = leaves.get(path)
  if (known !== undefined) return known
  const leaf = fieldOf(path)?.path ?? path
  leaves.set(path, leaf)
  return leaf
}

const splitPaths = new Map<StagePath, readonly string[]>()

function namesOf(path: StagePath): readonly string[] {
  const known = splitPaths.get(path)
  if (known) return known
  const names = path.split('.')
  splitPaths.set(path, names)
  return names
}

function put(target: unknown, path: StagePath, value: unknown): void {
  const names = namesOf(path)
  let parent = target as Record<string, unknown>
  for (let depth = 0; depth < names.length - 1; depth += 1) parent = parent[names[depth] as string] as Record<string, unknown>
  parent[names.at(-1) as string] = value
}

function at(source: unknown, path: StagePath): unknown {
  return namesOf(path).reduce<unknown>((node, name) => (node as Record<string, unknown>)[name], source)
}
