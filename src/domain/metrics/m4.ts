/*
 * A curve reduced to what a screen can show without hiding anything: of the points in each column of pixels the first, the last, the lowest
 * and the highest. A line through them covers the same pixels as one through all. Source: Jugel et al. 2014, "M4: A Visualization-Oriented
 * Time Series Data Aggregation" (VLDB 7.10).
 */

/** What is in view: values of x from `from` to `to`, both included, on `width` columns of pixels. */
export interface View {
  readonly from: number
  readonly to: number
  readonly width: number
}

export interface Curve {
  readonly x: readonly number[]
  readonly y: readonly number[]
  /** Finite points in view; all of them are listed where `isExact`. */
  readonly points: number
  readonly isExact: boolean
  /** Points in view whose value is infinite or not a number; they are not drawn. */
  readonly nonFinite: number
}

/** Points per column of pixels up to which every point is told. */
const exactPerColumn = 4

/**
 * The curve of `y` over `x` for a view, over the rows that `rows` lists (all of them where it is undefined); x must not fall from one of
 * them to the next. Points just outside of the view come along, one on each side, so that lines reach its edges; they are not counted.
 */
export function curveOf(x: Float64Array, y: Float64Array, rows: Uint32Array | undefined, { from, to, width }: View): Curve {
  const points = new Points(x, y, rows)
  const [begin, end] = [points.firstFrom(from), points.firstAfter(to)]
  const finite = points.finite(begin, end)
  const isExact = finite <= width * exactPerColumn
  const chosen = isExact ? points.every(begin, end) : points.extremes(begin, end, { from, to, width })
  const all = [points.nextFinite(begin - 1, -1), ...chosen, points.nextFinite(end, 1)].filter((row) => row !== -1)
  return {
    x: all.map((row) => x[row] as number),
    y: all.map((row) => y[row] as number),
    points: finite,
    isExact,
    nonFinite: end - begin - finite,
  }
}

/** The points of a curve by their place in the order of x. */
class Points {
  readonly #x: Float64Array
  readonly #y: Float64Array
  readonly #rows: Uint32Array | undefined
  readonly #length: number

  constructor(x: Float64Array, y: Float64Array, rows: Uint32Array | undefined) {
    this.#x = x
    this.#y = y
    this.#rows = rows
    this.#length = rows?.length ?? x.length
  }

  #rowAt(place: number): number {
    return this.#rows ? (this.#rows[place] as number) : place
  }

  /** First place whose x is at least a value. */
  firstFrom(value: number): number {
    return this.#first((at) => at >= value)
  }

  /** First place whose x is beyond a value. */
  firstAfter(value: number): number {
    return this.#first((at) => at > value)
  }

  #first(isReached: (at: number) => boolean): number {
    let [low, high] = [0, this.#length]
    while (low < high) {
      const middle = (low + high) >> 1
      if (isReached(this.#x[this.#rowAt(middle)] as number)) high = middle
      else low = middle + 1
    }
    return low
  }

  finite(begin: number, end: number): number {
    let count = 0
    for (let place = begin; place < end; place += 1) {
      const value = this.#y[this.#rowAt(place)] as number
      // Zero for every number, not a number for the others.
      if (value - value === 0) count += 1
    }
    return count
  }

  /** The nearest finite row from a place on, in a direction; -1 where there is none. */
  nextFinite(from: number, direction: 1 | -1): number {
    for (let place = from; place >= 0 && place < this.#length; place += direction) {
      const row = this.#rowAt(place)
      if (Number.isFinite(this.#y[row])) return row
    }
    return -1
  }

  every(begin: number, end: number): number[] {
    const chosen: number[] = []
    for (let place = begin; place < end; place += 1) {
      const row = this.#rowAt(place)
      if (Number.isFinite(this.#y[row])) chosen.push(row)
    }
    return chosen
  }

  /** First, lowest, highest and last finite row of each column of pixels, in their order. */
  extremes(begin: number, end: number, { from, to, width }: View): number[] {
    const chosen: number[] = []
    let start = begin
    for (let column = 1; column <= width && start < end; column += 1) {
      const edge = from + ((to - from) * column) / width
      const stop = column === width ? end : Math.min(end, this.firstFrom(edge))
      chosen.push(...this.#extremesOf(start, stop))
      start = Math.max(start, stop)
    }
    return chosen
  }

  #extremesOf(start: number, stop: number): number[] {
    let [first, last, low, high] = [-1, -1, -1, -1]
    let [lowest, highest] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]
    for (let place = start; place < stop; place += 1) {
      const row = this.#rowAt(place)
      const value = this.#y[row] as number
      if (value - value !== 0) continue
      if (first === -1) first = row
      last = row
      if (value < lowest) {
        lowest = value
        low = row
      }
      if (value > highest) {
        highest = value
        high = row
      }
    }
    if (first === -1) return []
    const inner = low < high ? [low, high] : [high, low]
    return [first, ...inner, last].filter((row, place, all) => row !== all[place - 1])
  }
}

/**
 * The exponential mean of a column over the rows that count, without the pull towards zero at its beginning; NaN elsewhere.
 * `weight` is what the past keeps at each point, from 0 (nothing) to below 1. Values that are no number are passed over.
 */
export function smoothed(y: Float64Array, rows: Uint32Array, weight: number): Float64Array {
  const means = new Float64Array(y.length).fill(Number.NaN)
  let [sum, share] = [0, 0]
  for (const row of rows) {
    const value = y[row] as number
    if (!Number.isFinite(value)) continue
    sum = weight * sum + (1 - weight) * value
    share = weight * share + (1 - weight)
    means[row] = sum / share
  }
  return means
}
