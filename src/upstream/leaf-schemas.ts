import type { z } from 'zod'
import { type StagePath, stageSchema } from '../domain/stage/schema.ts'

interface Node {
  readonly shape?: Readonly<Record<string, Node>>
  readonly def: { readonly innerType?: Node }
}

interface Leaf {
  readonly schema: z.ZodType
  /** Answers for numbers, booleans and null: the same defaults come again with every script. */
  readonly answers: Map<unknown, boolean>
}

const leaves = new Map<StagePath, Leaf | undefined>()

/**
 * Whether a value fits the field of a stage at a dotted path; false for a path that is no field. The schema of a stage has no rule across
 * fields, so a stage whose every field fits is a stage; checking the fields that were set is far less than parsing all of it again.
 */
export function fitsLeaf(path: StagePath, value: unknown): boolean {
  if (!leaves.has(path)) leaves.set(path, leafAt(path))
  const leaf = leaves.get(path)
  if (!leaf) return false
  if (value !== null && typeof value !== 'number' && typeof value !== 'boolean') return leaf.schema.safeParse(value).success
  const known = leaf.answers.get(value)
  if (known !== undefined) return known
  const fits = leaf.schema.safeParse(value).success
  leaf.answers.set(value, fits)
  return fits
}

function leafAt(path: StagePath): Leaf | undefined {
  const found = path.split('.').reduce<Node | undefined>((node, name) => objectIn(node)?.[name], stageSchema as unknown as Node)
  return found && { schema: found as unknown as z.ZodType, answers: new Map() }
}

/** The fields of an object schema beneath its defaults. */
function objectIn(node: Node | undefined): Readonly<Record<string, Node>> | undefined {
  let inner = node
  while (inner && !inner.shape) inner = inner.def.innerType
  return inner?.shape
}
