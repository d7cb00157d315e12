import type { z } from 'zod'
import { nearestName } from '../domain/nearest.ts'
import { stageFields } from '../domain/stage/fields.ts'
import type { StagePath } from '../domain/stage/schema.ts'
import { choicesAt, expectationAt, shown, takes } from './expectation.ts'
import { type FieldLeaf, type FieldSection, fieldTree } from './field-tree.ts'
import { type Located, type LocatedRecord, placeInside, plainValue } from './located.ts'
import type { Place, Problems } from './problems.ts'

export interface Setting {
  readonly value: unknown
  readonly place: Place
  /** The value with the places inside it. */
  readonly node: Located
}

/** The fields one file, or one option, gives a value to. */
export type Layer = ReadonlyMap<StagePath, Setting>

interface Reading {
  readonly problems: Problems
  readonly layer: Map<StagePath, Setting>
}

/**
 * The fields a record of settings gives. `at` is where it stands in the file, such as `stages[1]`; `besides` names the keys
 * beside the fields, which are left to the caller. Everything wrong is added to `problems`.
 */
export function readLayer(record: LocatedRecord, at: string, besides: readonly string[], problems: Problems): Layer {
  const layer = new Map<StagePath, Setting>()
  readSection(record, fieldTree(), { written: at, path: '', besides }, { problems, layer })
  return layer
}

interface At {
  /** Path in the file. */
  readonly written: string
  /** Path in the stage. */
  readonly path: string
  readonly besides: readonly string[]
}

function readSection(record: LocatedRecord, section: FieldSection, at: At, reading: Reading): void {
  for (const [name, entry] of record.entries) {
    if (at.besides.includes(name)) continue
    const child = section.children.get(name)
    const inside = { written: joined(at.written, name), path: joined(at.path, name), besides: [] }
    if (child === undefined) {
      const hint = hintFor(name, at, [...section.children.keys(), ...at.besides])
      reading.problems.add({
        code: 'CONFIG_UNKNOWN_KEY',
        place: entry.place,
        path: inside.written,
        text: `expected a setting, got the unknown key \`${name}\``,
        ...hint,
      })
    } else if (child.kind === 'leaf') {
      readLeaf(entry.value, entry.place, child, inside, reading)
    } else if (entry.value.kind === 'record') {
      readSection(entry.value, child, inside, reading)
    } else {
      const text = `expected a section with ${[...child.children.keys()].slice(0, 4).join(', ')}…, got ${shown(plainValue(entry.value))}`
      reading.problems.add({ code: 'CONFIG_INVALID', place: entry.value.place, path: inside.written, text })
    }
  }
}

function readLeaf(node: Located, place: Place, leaf: FieldLeaf, at: At, { problems, layer }: Reading): void {
  const value = plainValue(node)
  const result = leaf.type.safeParse(value)
  if (result.success) {
    layer.set(at.path, { value: result.data, place, node })
    return
  }
  for (const issue of result.error.issues) problems.add(problemOf(issue, node, leaf, at.written))
}

function problemOf(issue: z.core.$ZodIssue, node: Located, leaf: FieldLeaf, written: string) {
  const path = `${written}${issue.path.map((step) => (typeof step === 'number' ? `[${step}]` : `.${String(step)}`)).join('')}`
  if (issue.code === 'unrecognized_keys') {
    const text = `expected ${expectationAt(leaf.schema, issue.path)}, got the unknown key \`${issue.keys.join('`, `')}\``
    return { code: 'CONFIG_UNKNOWN_KEY', place: placeInside(node, [...issue.path, issue.keys[0] ?? '']), path, text }
  }
  const got = valueInside(node, issue.path)
  const text = `expected ${expectationAt(leaf.schema, issue.path)}, got ${shown(got)}`
  return { code: 'CONFIG_INVALID', place: placeInside(node, issue.path), path, text, ...valueHint(got, leaf, issue.path) }
}

function valueInside(node: Located, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>(
    (value, step) => (value !== null && typeof value === 'object' ? Reflect.get(value, step) : undefined),
    plainValue(node),
  )
}

function valueHint(got: unknown, { schema }: FieldLeaf, path: readonly PropertyKey[]): { hint?: string } {
  if (typeof got === 'string') {
    if (takes(schema, path, 'boolean') && /^(yes|no|on|off|true|false)$/i.test(got)) return { hint: 'write true or false, without quotes' }
    const plain = got.replaceAll('_', '')
    if (takes(schema, path, 'number') && plain.trim() !== '' && Number.isFinite(Number(plain))) return { hint: `write ${Number(plain)}` }
    const near = nearestName(got, choicesAt(schema, path))
    if (near) return { hint: `did you mean \`${near}\`?` }
  }
  if (takes(schema, path, 'array') && got !== null && got !== undefined && !Array.isArray(got))
    return { hint: `write a list: [${String(got)}]` }
  return {}
}

/** What may have been meant by an unknown key: a neighbour, upstream's name of a field, or the same name in another section. */
function hintFor(name: string, at: At, neighbours: readonly string[]): { hint?: string } {
  const near = nearestName(name, neighbours)
  const fields = [...stageFields().values()]
  const renamed = fields.find((field) => field.upstream?.includes(name))
  const elsewhere = fields.find((field) => field.path.endsWith(`.${name}`))
  const section = sectionNamed(name)
  if (section !== undefined) return { hint: `did you mean \`${section}\`?` }
  const meant = near ? joined(at.path, near) : (renamed?.path ?? elsewhere?.path ?? nearestField(joined(at.path, name)))
  return meant === undefined ? {} : { hint: `did you mean \`${meant}\`?` }
}

/** The section of exactly that name inside another one. */
function sectionNamed(name: string): string | undefined {
  const inside = [...stageFields().keys()].find((path) => path.includes(`.${name}.`))
  return inside?.slice(0, inside.indexOf(`.${name}.`) + name.length + 1)
}

function nearestField(path: string): string | undefined {
  return nearestName(path, stageFields().keys()) ?? nearestByLastName(path)
}

function nearestByLastName(path: string): string | undefined {
  const byLast = new Map([...stageFields().keys()].map((known) => [known.split('.').at(-1) ?? known, known]))
  const last = nearestName(path.split('.').at(-1) ?? path, byLast.keys())
  return last && byLast.get(last)
}

function joined(at: string, name: string): string {
  return at === '' ? name : `${at}.${name}`
}
