import { z } from 'zod'
import { stageFields } from '../domain/stage/fields.ts'
import { stageSchema } from '../domain/stage/schema.ts'

/** The stage schema as names a recipe may write: sections by name, fields at the leaves. */
type FieldTree = FieldSection | FieldLeaf

export interface FieldSection {
  readonly kind: 'section'
  readonly children: ReadonlyMap<string, FieldTree>
}

export interface FieldLeaf {
  readonly kind: 'leaf'
  readonly type: z.ZodType
  /** JSON Schema of the value, for messages. */
  readonly schema: Record<string, unknown>
}

let known: FieldSection | undefined

export function fieldTree(): FieldSection {
  known ??= sectionOf(stageSchema, '')
  return known
}

function sectionOf(object: z.ZodObject, at: string): FieldSection {
  const children = Object.entries(object.shape).map(
    ([name, type]) => [name, treeOf(type as z.ZodType, at === '' ? name : `${at}.${name}`)] as const,
  )
  return { kind: 'section', children: new Map(children) }
}

function treeOf(type: z.ZodType, path: string): FieldTree {
  const field = stageFields().get(path)
  if (field) return { kind: 'leaf', type, schema: field.schema }
  const inner = type instanceof z.ZodPrefault ? type.unwrap() : type
  if (inner instanceof z.ZodObject) return sectionOf(inner, path)
  throw new Error(`${path}: neither a field with metadata nor a section`)
}
