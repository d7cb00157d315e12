import { isMap, isScalar, parseDocument, stringify, type YAMLMap } from 'yaml'
import { UserError } from '../domain/errors.ts'
import { nearestName } from '../domain/nearest.ts'
import { stageFields } from '../domain/stage/fields.ts'
import type { Origin } from '../domain/stage/origin.ts'
import type { StagePath } from '../domain/stage/schema.ts'
import { valueText } from '../domain/stage/value-text.ts'
import type { LayerValue } from './layers.ts'
import { placeText } from './problems.ts'
import type { ResolvedStage } from './resolver.ts'

/** Why a field has its value: every value given to it, the winning one first. */
export interface Explanation {
  readonly path: StagePath
  readonly meaning: string
  readonly unit?: string
  readonly layers: readonly LayerValue[]
}

/**
 * Explains a field, or every field of a section such as `shape`.
 * Raises UserError CONFIG_UNKNOWN_KEY with the nearest name for another path.
 */
export function why(stage: Pick<ResolvedStage, 'layers'>, path: StagePath): Explanation[] {
  const fields = [...stageFields().values()].filter((field) => field.path === path || field.path.startsWith(`${path}.`))
  if (fields.length === 0) throw unknownKey(path)
  return fields.map(({ path: field, meaning, unit }) => ({
    path: field,
    meaning,
    ...(unit ? { unit } : {}),
    layers: stage.layers.get(field) ?? [],
  }))
}

function unknownKey(path: StagePath): UserError {
  const fields = [...stageFields().values()]
  const inside = fields.find((field) => path.startsWith(`${field.path}.`))
  const renamed = fields.find((field) => field.upstream?.includes(path))?.path
  const meant =
    inside?.path ?? renamed ?? nearestName(path, stageFields().keys()) ?? fields.find((field) => field.path.endsWith(`.${path}`))?.path
  const hint = meant ? `did you mean \`${meant}\`?` : '`stagewright config show` lists every setting'
  return new UserError('CONFIG_UNKNOWN_KEY', `${path}: expected a setting of a stage, got an unknown path`, { hint })
}

/** An explanation as text: the value, then each layer with its place. */
export function whyLines({ path, meaning, unit, layers }: Explanation): string[] {
  const head = `${path} = ${valueText(layers[0]?.value)}${unit ? ` ${unit}` : ''}`
  const cells = layers.map(({ value, origin, from }) => [origin.layer + (from ? ` ${from}` : ''), valueText(value), originPlace(origin)])
  const widths = [0, 1].map((column) => Math.min(40, Math.max(0, ...cells.map((row) => row[column]?.length ?? 0))))
  const rows = cells.map((row, place) =>
    `  ${place === 0 ? '▸' : ' '} ${row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join('  ')}`.trimEnd(),
  )
  return [head, `  ${meaning}`, ...rows]
}

/** Where a value stands: `file:line:column`, or the option that gave it. */
function originPlace({ file, line, column, name }: Origin): string {
  if (file === undefined) return name ?? ''
  return placeText({ file, ...(line === undefined ? {} : { line }), ...(column === undefined ? {} : { column }) })
}

/** A complete stage as YAML that a preset could hold; with `origins`, each line says where its value comes from. */
export function stageYaml({ stage, origins }: ResolvedStage, options: { origins: boolean }): string {
  const document = parseDocument(stringify(stage))
  if (options.origins && isMap(document.contents)) annotate(document.contents, origins, '')
  return document.toString({ flowCollectionPadding: false, lineWidth: 0 })
}

function annotate(map: YAMLMap, origins: ReadonlyMap<StagePath, Origin>, at: string): void {
  for (const { key, value } of map.items) {
    if (!isScalar(key)) continue
    const path = at === '' ? String(key.value) : `${at}.${String(key.value)}`
    const origin = origins.get(path)
    if (origin && isScalar(value)) value.comment = ` ${originText(origin)}`
    else if (origin) key.commentBefore = ` ${originText(origin)}`
    else if (isMap(value)) annotate(value, origins, path)
  }
}

function originText(origin: Origin): string {
  return [origin.layer, originPlace(origin)].filter((part) => part !== '').join(' ')
}
