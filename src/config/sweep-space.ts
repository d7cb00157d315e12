import type { z } from 'zod'
import { nearestName } from '../domain/nearest.ts'
import { fieldOf, stageFields } from '../domain/stage/fields.ts'
import { stageSchema } from '../domain/stage/schema.ts'
import { type Axis, type AxisInput, axisSchema, type SweepFile } from '../domain/sweep/schema.ts'
import { shown } from './expectation.ts'
import { type Located, locatedOf, placeInside, plainValue } from './located.ts'
import type { Place, Problems } from './problems.ts'

/** The axes of a sweep. Everything wrong is added to `problems`. */
export function axesOf({ space, seeds }: SweepFile, node: Located, problems: Problems): Axis[] {
  const axes: Axis[] = []
  readSpace(space, [], axes, node, problems)
  if (Object.keys(space).length === 0 && seeds.length === 0)
    problems.add({
      code: 'CONFIG_INVALID',
      place: placeInside(node, ['space']),
      path: 'space',
      text: 'expected at least one axis, got none',
    })
  for (const [path, count] of counts(axes.map((axis) => axis.path)))
    if (count > 1)
      problems.add({
        code: 'CONFIG_DUPLICATE',
        place: placeInside(node, ['space']),
        path: `space.${path}`,
        text: 'expected each axis once, got it twice',
      })
  return axes
}

function counts(names: readonly string[]): Map<string, number> {
  const found = new Map<string, number>()
  for (const name of names) found.set(name, (found.get(name) ?? 0) + 1)
  return found
}

const axisKeys = Object.keys(axisSchema.shape)

/** Whether a name is that of settings and of none itself. */
function isSection(path: string): boolean {
  return [...stageFields().keys()].some((field) => field.startsWith(`${path}.`))
}

/** Names nest like those of a recipe, or have dots; a record of the keys of an axis is one. */
function readSpace(
  record: Readonly<Record<string, unknown>>,
  at: readonly string[],
  axes: Axis[],
  node: Located,
  problems: Problems,
): void {
  for (const [name, value] of Object.entries(record)) {
    const keys = [...at, name]
    const path = keys.join('.')
    const isRecord = value !== null && typeof value === 'object' && !Array.isArray(value)
    if (isRecord && isSection(path)) {
      readSpace(value as Record<string, unknown>, keys, axes, node, problems)
      continue
    }
    const place = placeInside(node, ['space', ...keys])
    if (Array.isArray(value) && stageFields().has(path) && wrongValue(path, value) !== undefined) {
      const text = `expected an axis, got ${shown(value)}`
      problems.add({ code: 'CONFIG_INVALID', place, path: `space.${path}`, text, hint: `{ values: ${shown(value)} } for one of these` })
      continue
    }
    const axis = readAxis(path, isRecord ? value : { value }, place, problems)
    if (axis) axes.push(axis)
  }
}

function readAxis(path: string, value: unknown, place: Place, problems: Problems): Axis | undefined {
  const refuse = (text: string, hint?: string) =>
    problems.add({ code: 'CONFIG_INVALID', place, path: `space.${path}`, text, ...(hint === undefined ? {} : { hint }) })
  if (!stageFields().has(path)) {
    const inside = fieldOf(path)
    const near = inside?.path ?? nearestName(path, stageFields().keys())
    refuse(`expected a setting, got ${path}`, near ? `did you mean \`${near}\`?` : 'docs/settings.md lists them')
    return undefined
  }
  if (path === 'name') return void refuse('expected a setting, got the name of the stage')
  if (path === 'seed') return void refuse('expected a setting, got the seed', 'list seeds under `seeds`: they give intervals')
  const result = axisSchema.safeParse(value)
  if (!result.success) {
    for (const issue of result.error.issues) addIssue(issue, locatedOf(value, place), `space.${path}`, axisKeys, problems)
    return undefined
  }
  const input = result.data
  const when = Object.fromEntries(Object.entries(input.when).map(([name, allowed]) => [name, Array.isArray(allowed) ? allowed : [allowed]]))
  const given = [input.value !== undefined, input.values !== undefined, input.min !== undefined || input.max !== undefined].filter(
    Boolean,
  ).length
  if (given !== 1) return void refuse(`expected one of value, values, or min and max, got ${given === 0 ? 'none' : 'several'}`)
  const values = input.value === undefined ? input.values : [input.value]
  if (values !== undefined) return choice(path, values, when, refuse)
  return range(path, input, when, refuse)
}

function choice(path: string, values: readonly unknown[], when: Axis['when'], refuse: (text: string) => void): Axis | undefined {
  const checked: unknown[] = []
  for (const value of values) {
    const wrong = wrongValue(path, value)
    if (wrong !== undefined) return void refuse(wrong)
    checked.push(value)
  }
  return { kind: 'choice', path, values: checked, when }
}

function range(path: string, input: AxisInput, when: Axis['when'], refuse: (text: string, hint?: string) => void): Axis | undefined {
  const { min, max, log, step = null, points = null } = input
  const types = typesOf(stageFields().get(path)?.schema ?? {})
  if (!types.has('number') && !types.has('integer')) return void refuse('expected values, got a range of a setting that is no number')
  if (min === undefined || max === undefined) return void refuse(`expected min and max, got ${min === undefined ? 'max' : 'min'} alone`)
  if (min >= max) return void refuse(`expected min below max, got ${String(min)} and ${String(max)}`)
  if (log && min <= 0) return void refuse(`expected a min above 0 for log, got ${min}`)
  if (log && step !== null) return void refuse('expected step or log, got both', 'use points in a grid')
  const kind = types.has('number') ? 'real' : 'integer'
  if (kind === 'integer' && ![min, max, step ?? 1].every(Number.isInteger))
    return void refuse(`expected whole numbers for ${path}, got ${min} to ${max}`)
  const wrong = wrongValue(path, min) ?? wrongValue(path, max)
  if (wrong !== undefined) return void refuse(wrong)
  return { kind, path, min, max, step, log, points, when }
}

interface TypeNode {
  readonly type?: string
  readonly anyOf?: readonly TypeNode[]
}

function typesOf(schema: TypeNode): Set<string> {
  return new Set([schema, ...(schema.anyOf ?? [])].flatMap(({ type }) => type ?? []))
}

/** What is wrong with a value of a setting by itself; undefined where nothing is. */
function wrongValue(path: string, value: unknown): string | undefined {
  const nested = path.split('.').reduceRight<unknown>((inner, name) => ({ [name]: inner }), value)
  const result = stageSchema.safeParse({ name: 'x', ...(nested as object) })
  const issue = result.success ? undefined : result.error.issues[0]
  if (!issue) return undefined
  const expected = /expected (.*?)(?:, received .*)?$/.exec(issue.message)?.[1] ?? issue.message
  return `expected ${expected}, got ${shown(value)}`
}

/** What zod says of a value, with its place. */
export function addIssue(issue: z.core.$ZodIssue, node: Located, at: string, known: readonly string[], problems: Problems): void {
  const path = [at, ...issue.path.map(String)].filter((part) => part !== '').join('.')
  if (issue.code === 'unrecognized_keys') {
    const [key = ''] = issue.keys
    const near = nearestName(key, known)
    const hint = near ? `did you mean \`${near}\`?` : `a sweep has ${known.join(', ')}`
    const text = `expected a key of a sweep, got the unknown key \`${key}\``
    problems.add({ code: 'CONFIG_UNKNOWN_KEY', place: placeInside(node, [...issue.path, key]), path, text, hint })
    return
  }
  const expected = /expected (.*?)(?:, received .*)?$/.exec(issue.message)?.[1] ?? issue.message
  const got = issue.path.reduce<unknown>(
    (value, step) => (value !== null && typeof value === 'object' ? Reflect.get(value, step) : undefined),
    plainValue(node),
  )
  const text = `expected ${expected}, got ${shown(got)}`
  problems.add({ code: 'CONFIG_INVALID', place: placeInside(node, issue.path), path, text })
}
