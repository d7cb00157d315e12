import type { Curve } from '../../domain/metrics/m4.ts'
import { brief } from './words.ts'

/** One line of a chart. Places of x rise. */
export interface Line {
  readonly label: string
  readonly x: readonly number[]
  readonly y: readonly (number | null)[]
  /** Name of a CSS property. */
  readonly colour: string
  readonly isFaint?: boolean
  readonly isDashed?: boolean
  readonly hasPoints?: boolean
}

/** Lines with places of their own as one table: all places once, and each line's value where it has one. */
export function aligned(lines: readonly Line[]): (number | null | undefined)[][] {
  const places = [...new Set(lines.flatMap(({ x }) => x))].sort((a, b) => a - b)
  const rowOf = new Map(places.map((place, row) => [place, row]))
  const columns = lines.map(({ x, y }) => {
    const column: (number | null | undefined)[] = new Array(places.length).fill(undefined)
    x.forEach((place, at) => {
      column[rowOf.get(place) ?? 0] = y[at] ?? null
    })
    return column
  })
  return [places, ...columns]
}

/** What a curve shows, in words: for those who cannot see it, and for those who want the numbers. */
export function curveSummary(curve: Curve | undefined, place: (x: number) => string): string {
  if (!curve || curve.points === 0) return 'No points in view.'
  let [low, high] = [0, 0]
  curve.y.forEach((value, at) => {
    if (value < (curve.y[low] as number)) low = at
    if (value > (curve.y[high] as number)) high = at
  })
  const told = (at: number) => `${brief(curve.y[at])} at ${place(curve.x[at] as number)}`
  const missing = curve.nonFinite > 0 ? ` ${curve.nonFinite} values are not finite.` : ''
  return `From ${told(0)} to ${told(curve.y.length - 1)}; lowest ${told(low)}, highest ${told(high)}.${missing}`
}

/** How many points are drawn of how many there are. */
export function countNote(curve: Curve | undefined, of: number): string {
  if (!curve) return ''
  const points = curve.points.toLocaleString('en')
  const missing = curve.nonFinite > 0 ? `, ${curve.nonFinite} not finite` : ''
  return `${points} of ${of.toLocaleString('en')} points${curve.isExact ? '' : ', lowest and highest of each pixel'}${missing}`
}

/** What the lines have where somebody points: of each the nearest of its points, in one line of text. */
export function readout(
  lines: readonly Line[],
  at: number,
  place: (x: number) => string,
  valueText: (value: number) => string = brief,
): string {
  const near = lines.flatMap(({ label, x, y }) => {
    const found = nearest(x, at)
    return found === undefined || y[found] == null ? [] : [{ label, x: x[found] as number, y: y[found] as number }]
  })
  const [first] = near.toSorted((a, b) => Math.abs(a.x - at) - Math.abs(b.x - at))
  if (!first) return ''
  const parts = near.map(({ label, x, y }) => `${label} ${valueText(y)}${x === first.x ? '' : ` (${place(x)})`}`)
  return `${place(first.x)}: ${parts.join(' · ')}`
}

/** The row of the value next to one; values rise. */
function nearest(values: readonly number[], at: number): number | undefined {
  let [low, high] = [0, values.length]
  while (low < high) {
    const middle = (low + high) >> 1
    if ((values[middle] as number) < at) low = middle + 1
    else high = middle
  }
  const [before, after] = [values[low - 1], values[low]]
  if (before === undefined) return after === undefined ? undefined : low
  return after === undefined || at - before <= after - at ? low - 1 : low
}
