import { stageFields, valueAt } from '../stage/fields.ts'
import { type Group, groups, type Impact } from '../stage/metadata.ts'
import type { StageSide } from '../stage/origin.ts'
import type { Stage, StagePath } from '../stage/schema.ts'
import { consequencesOf } from './derived.ts'
import { isRecord, sameValue } from './equality.ts'

/** A setting that changes somewhere along a chain: one value per stage, undefined where a stage does not have it. */
export interface ChainRow {
  readonly path: StagePath
  readonly group: Group
  readonly impact: Impact
  readonly unit?: string
  readonly values: readonly unknown[]
}

/** A consequence along a chain. */
export interface ConsequenceRow {
  readonly name: string
  readonly unit?: string
  readonly values: readonly (number | string | null)[]
}

/** A whole chain: a column per stage, a row per setting that ever changes. */
export interface ChainTable {
  readonly stages: readonly string[]
  readonly rows: readonly ChainRow[]
  readonly derived: readonly ConsequenceRow[]
  /** Settings that are the same in every stage. */
  readonly hidden: number
}

export function chainTable(sides: readonly StageSide[]): ChainTable {
  const stages = sides.map(({ stage }) => stage)
  const settings = [...stageFields().values()]
    .filter(({ path }) => path !== 'name')
    .flatMap((field) => {
      return settingPaths(field.path, stages).map((path) => ({
        as: path === field.path ? field.kind : ('entry' as const),
        ...field,
        path,
        values: stages.map((stage) => settingIn(stage, field.path, path)),
      }))
    })
  const changing = settings.filter(({ values, as }) => values.some((value) => !sameValue(value, values[0], as)))
  const rows = changing.map(({ path, group, impact, unit, values }) => ({ path, group, impact, ...(unit ? { unit } : {}), values }))
  return {
    stages: stages.map(({ name }) => name),
    rows: rows.toSorted((a, b) => groups.indexOf(a.group) - groups.indexOf(b.group)),
    derived: consequenceRows(stages),
    hidden: settings.length - changing.length,
  }
}

/** The path of a field, or those of the names inside it where it is a record. */
function settingPaths(path: StagePath, stages: readonly Stage[]): StagePath[] {
  const values = stages.map((stage) => valueAt(stage, path))
  if (!values.every(isRecord)) return [path]
  return [...new Set(values.flatMap(Object.keys))].map((name) => `${path}.${name}`)
}

/** Names inside a record may hold dots, so they are not looked up as paths. */
function settingIn(stage: Stage, field: StagePath, path: StagePath): unknown {
  const value = valueAt(stage, field)
  return path === field ? value : isRecord(value) ? value[path.slice(field.length + 1)] : undefined
}

function consequenceRows(stages: readonly Stage[]): ConsequenceRow[] {
  const columns = stages.map((stage) => new Map(consequencesOf(stage).map((entry) => [entry.name, entry])))
  const names = [...new Set(columns.flatMap((column) => [...column.keys()]))]
  return names
    .map((name) => {
      const unit = columns.map((column) => column.get(name)?.unit).find((found) => found !== undefined)
      return { name, ...(unit ? { unit } : {}), values: columns.map((column) => column.get(name)?.value ?? null) }
    })
    .filter(({ values }) => values.some((value) => value !== values[0]))
}
