import { z } from 'zod'
import type { FieldMeta } from './metadata.ts'
import { type Stage, type StagePath, stageSchema } from './schema.ts'

export interface StageField extends FieldMeta {
  readonly path: StagePath
  /** The default; undefined where a recipe must give the value. */
  readonly default: unknown
  /** JSON Schema of the value. */
  readonly schema: Record<string, unknown>
}

interface JsonSchemaNode {
  properties?: Record<string, JsonSchemaNode>
  default?: unknown
  group?: string
  [key: string]: unknown
}

let known: ReadonlyMap<StagePath, StageField> | undefined

/** Every leaf of the stage schema by its dotted path, in the order of the schema. */
export function stageFields(): ReadonlyMap<StagePath, StageField> {
  known ??= new Map(leavesOf(stageJsonSchema('input') as JsonSchemaNode, []).map((leaf) => [leaf.path, leaf]))
  return known
}

/** JSON Schema of a stage: as a recipe writes it (`input`) or complete (`output`). */
export function stageJsonSchema(io: 'input' | 'output'): Record<string, unknown> {
  return z.toJSONSchema(stageSchema, { io, unrepresentable: 'throw' }) as Record<string, unknown>
}

function leavesOf(node: JsonSchemaNode, at: string[]): StageField[] {
  return Object.entries(node.properties ?? {}).flatMap(([name, child]) => {
    const path = [...at, name]
    if (child.group === undefined) return leavesOf(child, path)
    const { group, kind, impact, meaning, unit, why, upstream, description: _, default: fallback, ...schema } = child
    return [{ path: path.join('.'), group, kind, impact, meaning, unit, why, upstream, default: fallback, schema } as unknown as StageField]
  })
}

/** The value of a stage at a dotted path; undefined where there is none. */
export function valueAt(stage: unknown, path: StagePath): unknown {
  let value: unknown = stage
  for (const name of path.split('.')) {
    if (value === null || typeof value !== 'object') return undefined
    value = (value as Record<string, unknown>)[name]
  }
  return value
}

/** Sets the value of a stage at a dotted path; objects on the way are made where there are none. */
export function setValueAt(stage: object, path: StagePath, value: unknown): void {
  const names = path.split('.')
  const last = names.pop() ?? ''
  let at = stage
  for (const name of names) {
    const inner = (Reflect.get(at, name) ?? {}) as object
    Reflect.set(at, name, inner)
    at = inner
  }
  Reflect.set(at, last, value)
}

/** Metadata of the field a path belongs to, also for a path inside a list or record; undefined for an unknown path. */
export function fieldOf(path: StagePath): StageField | undefined {
  const fields = stageFields()
  for (let at = path; at !== ''; at = at.slice(0, Math.max(0, at.lastIndexOf('.')))) {
    const found = fields.get(at)
    if (found) return found
  }
  return undefined
}

/** A complete stage made of defaults alone. */
export function defaultStage(name = 'defaults'): Stage {
  return stageSchema.parse({ name })
}
