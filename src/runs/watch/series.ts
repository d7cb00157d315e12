import { UserError } from '../../domain/errors.ts'
import type { MetricColumns } from '../../domain/metrics/columns.ts'
import { type Curve, curveOf, smoothed } from '../../domain/metrics/m4.ts'
import type { RunWatch } from './run-watch.ts'

/** What curves are drawn over: optimizer steps, clips trained on, the time of day in seconds since 1970, or seconds since the first step. */
export const axes = ['step', 'samples', 'wall', 'relative'] as const
export type Axis = (typeof axes)[number]

export interface SeriesQuery {
  readonly columns: readonly string[]
  readonly axis: Axis
  /** Bounds of the view; those of the whole run where they are undefined. */
  readonly from?: number | undefined
  readonly to?: number | undefined
  /** Columns of pixels. */
  readonly width: number
  /** What the past keeps in the smoothed curve, from 0 to below 1; 0 makes none. */
  readonly smoothing: number
}

/** One measurement in view. */
export interface Series {
  readonly column: string
  /** The points that count. */
  readonly curve: Curve
  readonly smooth: Curve | null
  /** Points that were done again later. */
  readonly superseded: Curve | null
}

export interface SeriesAnswer {
  readonly axis: Axis
  readonly from: number
  readonly to: number
  /** Bounds of the whole run; undefined values are null before its first step. */
  readonly bounds: readonly [number, number] | null
  /** Rows that count in the whole run. */
  readonly of: number
  readonly series: readonly Series[]
}

/** Loss by bin of diffusion time over a view: the mean of each bin in each column of pixels. */
export interface HeatMap {
  readonly from: number
  readonly to: number
  readonly width: number
  /** One row a bin, bin 0 first; null where nothing fell. */
  readonly means: readonly (readonly (number | null)[])[]
  readonly points: number
}

/** Curves of a run for a view. Raises UserError COLUMN_UNKNOWN. */
export function seriesOf(watch: RunWatch, query: SeriesQuery): SeriesAnswer {
  const { columns } = watch.record
  const x = axisOf(columns, query.axis)
  const bounds = boundsOf(columns, x)
  const [from, to] = [query.from ?? bounds?.[0] ?? 0, query.to ?? bounds?.[1] ?? 1]
  const view = { from, to, width: query.width }
  const again = supersededRows(columns, x)
  const series = query.columns.map((column): Series => {
    const y = columns.column(column)
    if (!y) throw unknown(column, columns)
    const smooth = query.smoothing > 0 ? smoothed(y, columns.kept, query.smoothing) : undefined
    return {
      column,
      curve: curveOf(x, y, columns.kept, view),
      smooth: smooth ? curveOf(x, smooth, columns.kept, view) : null,
      superseded: again.length > 0 ? curveOf(x, y, again, view) : null,
    }
  })
  return { axis: query.axis, from, to, bounds, of: columns.kept.length, series }
}

function unknown(column: string, columns: MetricColumns): UserError {
  return new UserError('COLUMN_UNKNOWN', `${column}: expected a measurement of this run, got none of that name`, {
    hint: `it has ${columns.names.join(', ')}`,
  })
}

/** The values of an axis, one a row; they do not fall from one row that counts to the next. */
function axisOf(columns: MetricColumns, axis: Axis): Float64Array {
  const named = (name: string) => columns.column(name) ?? new Float64Array()
  if (axis === 'step' || axis === 'samples') return named(axis)
  const times = Float64Array.from(named('ts'))
  // A clock that was set back would fold the curve.
  for (let row = 1; row < times.length; row += 1) times[row] = Math.max(times[row] as number, times[row - 1] as number)
  return axis === 'wall' ? times : times.map((time) => time - (times[0] as number))
}

function boundsOf({ kept }: MetricColumns, x: Float64Array): readonly [number, number] | null {
  const [first, last] = [kept[0], kept.at(-1)]
  return first === undefined || last === undefined ? null : [x[first] as number, x[last] as number]
}

/** Rows done again later, by their place on the axis. */
function supersededRows({ superseded, rewinds }: MetricColumns, x: Float64Array): Uint32Array {
  if (rewinds.length === 0) return new Uint32Array()
  const rows: number[] = []
  for (let row = 0; row < superseded.length; row += 1) if (superseded[row] === 1) rows.push(row)
  return Uint32Array.from(rows.sort((a, b) => (x[a] as number) - (x[b] as number) || a - b))
}

/** Where steps lie on an axis: that of the last row at or before each. NaN before the first. */
export function placesOf({ record }: RunWatch, axis: Axis, steps: readonly number[]): number[] {
  const { kept } = record.columns
  const [x, all] = [axisOf(record.columns, axis), record.columns.column('step') ?? new Float64Array()]
  if (axis === 'step') return [...steps]
  return steps.map((step) => {
    let [low, high] = [0, kept.length]
    while (low < high) {
      const middle = (low + high) >> 1
      if ((all[kept[middle] as number] as number) > step) high = middle
      else low = middle + 1
    }
    return kept.length === 0 ? Number.NaN : (x[kept[Math.max(0, low - 1)] as number] as number)
  })
}

/** The mean loss of each time bin over a view, on an axis. */
export function heatMapOf({ record }: RunWatch, query: Omit<SeriesQuery, 'columns' | 'smoothing'>): HeatMap {
  const { columns } = record
  const x = axisOf(columns, query.axis)
  const bounds = boundsOf(columns, x)
  const [from, to] = [query.from ?? bounds?.[0] ?? 0, query.to ?? bounds?.[1] ?? 1]
  const { width } = query
  const highest = Math.max(-1, ...columns.names.map((name) => Number(/^bin\.(\d+)$/.exec(name)?.[1] ?? -1)))
  let points = 0
  const means = Array.from({ length: highest + 1 }, (_, bin) => {
    const [sums, counts] = [new Float64Array(width), new Uint32Array(width)]
    const values = columns.column(`bin.${bin}`)
    for (const row of values ? columns.kept : []) {
      const [at, value] = [x[row] as number, values?.[row] as number]
      if (at < from || at > to || !Number.isFinite(value)) continue
      const column = Math.min(width - 1, Math.floor(((at - from) / (to - from || 1)) * width))
      sums[column] = (sums[column] as number) + value
      counts[column] = (counts[column] as number) + 1
      points += 1
    }
    return Array.from(sums, (sum, column) => (counts[column] === 0 ? null : sum / (counts[column] as number)))
  })
  return { from, to, width, means, points }
}

/** Everything that was measured at a step: the row that counts. Undefined where the step has none. */
export function rowAt({ record }: RunWatch, step: number): Record<string, number> | undefined {
  const { columns } = record
  const steps = columns.column('step')
  const row = columns.kept.findLast((candidate) => steps?.[candidate] === step)
  if (row === undefined) return undefined
  return Object.fromEntries(
    columns.names.flatMap((name) => {
      const value = columns.column(name)?.[row]
      return value === undefined || Number.isNaN(value) ? [] : [[name, value]]
    }),
  )
}
