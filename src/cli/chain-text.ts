import type { ChainTable } from '../domain/diff/chain.ts'
import { byGroups } from '../domain/diff/stage-diff.ts'
import { quantityText, unitText, valueText } from '../domain/stage/value-text.ts'
import type { TextStyle } from './diff-text.ts'
import { columnsOf, cut, padded } from './terminal.ts'

/**
 * A chain as one table: a column per stage, a row per setting that ever changes. Where the columns do not fit beside
 * each other, the stages are shown in several tables, one under the other.
 */
export function chainLines(chain: ChainTable, style: TextStyle): string[] {
  const sections = [
    ...byGroups(chain.rows).map(({ group, entries }) => ({
      title: group,
      rows: entries.map(({ path, values, unit }) => ({ name: unit ? `${path} [${unit}]` : path, cells: repeated(values.map(valueText)) })),
    })),
    {
      title: 'what follows',
      rows: chain.derived.map(({ name, unit, values }) => ({
        name: unit ? `${name} [${unitText(unit, 2)}]` : name,
        cells: repeated(values.map((value) => (typeof value === 'number' ? quantityText(value) : (value ?? '–')))),
      })),
    },
  ].filter(({ rows }) => rows.length > 0)
  const nameColumns = Math.min(32, Math.max(8, ...sections.flatMap(({ rows }) => rows.map(({ name }) => columnsOf(name) + 2))))
  const parts = stageParts(chain.stages.length, style.columns - nameColumns)
  const hidden = `${chain.hidden} settings that never change hidden`
  return [...parts.flatMap((part) => [...partLines(chain, sections, part, nameColumns, style), '']), hidden]
}

interface Section {
  readonly title: string
  readonly rows: readonly { name: string; cells: readonly string[] }[]
}

interface Part {
  readonly from: number
  readonly to: number
  readonly columns: number
}

const narrowest = 14

function stageParts(stages: number, room: number): Part[] {
  const perPart = Math.max(1, Math.min(stages, Math.floor(room / narrowest)))
  const columns = Math.max(narrowest, Math.floor(room / perPart)) - 2
  return Array.from({ length: Math.ceil(stages / perPart) }, (_, place) => ({
    from: place * perPart,
    to: Math.min(stages, (place + 1) * perPart),
    columns,
  }))
}

function partLines(
  chain: ChainTable,
  sections: readonly Section[],
  { from, to, columns }: Part,
  nameColumns: number,
  { paint }: TextStyle,
): string[] {
  const line = (name: string, cells: readonly string[]) =>
    [padded(cut(name, nameColumns), nameColumns), ...cells.slice(from, to).map((cell) => padded(cut(cell, columns), columns))]
      .join('  ')
      .trimEnd()
  return [
    paint.bold(line('', chain.stages)),
    ...sections.flatMap(({ title, rows }) => [
      paint.bold(`${title.charAt(0).toUpperCase()}${title.slice(1)}`),
      ...rows.map(({ name, cells }) => line(`  ${name}`, cells)),
    ]),
  ]
}

/** A value equal to the one before it is shown as `·`, so that the eye finds the changes. */
function repeated(cells: readonly string[]): string[] {
  return cells.map((cell, place) => (place > 0 && cell === cells[place - 1] ? '·' : cell))
}
