import { defaultStage, fieldOf, stageFields } from '../domain/stage/fields.ts'
import type { Origin } from '../domain/stage/origin.ts'
import { type Stage, type StagePath, stageSchema } from '../domain/stage/schema.ts'
import type { Settings } from './flag-fields.ts'
import type { FlagValue } from './trainer.ts'

const fresh = defaultStage()
const schemaDefault: Origin = { layer: 'schema default' }

/** A stage while it is put together, and where each value came from. */
export class StageBuilder {
  readonly origins = new Map<StagePath, Origin>()
  readonly flagNames = new Map<StagePath, string>()
  /** Fields whose value the schema refused, with the value. */
  readonly refused = new Map<StagePath, unknown>()
  private readonly stage: Stage

  constructor(name: string) {
    this.stage = { ...structuredClone(fresh), name }
    for (const path of stageFields().keys()) this.origins.set(path, schemaDefault)
  }

  set(settings: Settings, origin: Origin): void {
    for (const [path, value] of Object.entries(settings)) {
      if (value === undefined) continue
      put(this.stage, path, value)
      const leaf = fieldOf(path)?.path ?? path
      if (origin.layer === 'trainer default' && this.origins.get(leaf)?.layer === 'script' && path !== leaf) continue
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
    const parsed = stageSchema.safeParse(this.stage)
    if (parsed.success) return parsed.data
    for (const { path } of parsed.error.issues) {
      const leaf = fieldOf(path.map(String).join('.'))?.path ?? String(path[0])
      this.refused.set(leaf, at(this.stage, leaf))
      put(this.stage, leaf, at(fresh, leaf))
      this.origins.set(leaf, schemaDefault)
    }
    return stageSchema.parse(this.stage)
  }
}

function put(target: unknown, path: StagePath, value: unknown): void {
  const names = path.split('.')
  const last = names.pop() ?? ''
  const parent = names.reduce<Record<string, unknown>>(
    (node, name) => node[name] as Record<string, unknown>,
    target as Record<string, unknown>,
  )
  parent[last] = value
}

function at(source: unknown, path: StagePath): unknown {
  return path.split('.').reduce<unknown>((node, name) => (node as Record<string, unknown>)[name], source)
}
