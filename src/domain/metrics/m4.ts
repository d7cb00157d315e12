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
  const most = width * exactPerColumn
  const reduced = end - begin <= most ? undefined : points.extremes(begin, end, { from, to, width })
  const isExact = reduced === undefined || reduced.finite <= most
  const chosen = isExact ? points.every(begin, end) : reduced.chosen
  const finite = isExact ? chosen.length : reduced.finite
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

  /** First, lowest, highest and last finite row of each column of pixels, in their order, and how many finite rows there are in all. */
  extremes(begin: number, end: number, { from, to, width }: View): { chosen: number[]; finite: number } {
    const chosen: number[] = []
    let finite = 0
    let start = begin
    for (let column = 1; column <= width && start < end; column += 1) {
      const edge = from + ((to - from) * column) / width
      const stop = column === width ? end : Math.max(start, Math.min(end, this.firstFrom(edge)))
      finite += this.#rows ? this.#extremesOf(this.#rows, start, stop, chosen) : this.#extremesOfAll(start, stop, chosen)
      start = stop
    }
    return { chosen, finite }
  }

  /** Adds the extremes of a stretch of rows that are chosen by a list; returns how many of them are finite. */
  #extremesOf(rows: Uint32Array, start: number, stop: number, chosen: number[]): number {
    const values = new Float64Array(stop - start)
    for (let place = start; place < stop; place += 1) values[place - start] = this.#y[rows[place] as number] as number
    return addExtremes(values, (place) => rows[start + place] as number, chosen)
  }

  #extremesOfAll(start: number, stop: number, chosen: number[]): number {
    return addExtremes(this.#y.subarray(start, stop), (place) => start + place, chosen)
  }
}

/** Adds the rows of the first, lowest, highest and last finite value, without repeating one; returns how many values are finite. */
function addExtremes(values: Float64Array, rowAt: (place: number) => number, chosen: number[]): number {
  let [first, last, low, high, finite] = [-1, -1, -1, -1, 0]
  let [lowest, highest] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]
  for (let place = 0; place < values.length; place += 1) {
    const value = values[place] as number
    // Zero for every number, not a number for the others.
    if (value - value !== 0) continue
    finite += 1
    if (first === -1) first = place
    last = place
    if (value < lowest) {
      lowest = value
      low = place
    }
    if (value > highest) {
      highest = value
      high = place
    }
  }
  if (finite === 0) return 0
  const places = low < high ? [first, low, high, last] : [first, high, low, last]
  for (const [at, place] of places.entries()) if (place !== places[at - 1]) chosen.push(rowAt(place))
  return finite
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
