import type { Paint } from './terminal.ts'

/*
 * The course of a loss on a terminal: a band from the lowest to the highest value of each column, the mean around it, and what was measured
 * on held-out clips. Kept in a bounded amount of memory, however long the run.
 */

/** Stretches are joined in pairs beyond this. */
const mostStretches = 1024

/** Columns on each side that a drawn mean takes in, in a curve wide enough for it. */
const neighbours = 2
const columnsPerNeighbour = 20

/** Consecutive steps. */
interface Stretch {
  readonly first: number
  last: number
  low: number
  high: number
  sum: number
  count: number
}

interface Column {
  low: number
  high: number
  sum: number
  count: number
}

export class LossCurve {
  #stretches: Stretch[] = []
  #stepsEach = 1
  readonly #heldOut: { readonly step: number; readonly loss: number }[] = []

  /** Takes the loss of a step; one that is no number leaves a gap. */
  add(step: number, loss: number): void {
    if (!Number.isFinite(loss)) return
    const newest = this.#stretches.at(-1)
    if (newest && step < newest.first + this.#stepsEach)
      join(newest, { first: step, last: step, low: loss, high: loss, sum: loss, count: 1 })
    else this.#stretches.push({ first: step, last: step, low: loss, high: loss, sum: loss, count: 1 })
    if (this.#stretches.length > mostStretches) this.#halve()
  }

  /** Takes a loss measured on held-out clips. */
  measure(step: number, loss: number): void {
    if (Number.isFinite(loss)) this.#heldOut.push({ step, loss })
  }

  /** Forgets what a continued or rolled-back run does again: everything after a step. */
  goTo(step: number): void {
    while ((this.#stretches.at(-1)?.first ?? -1) > step) this.#stretches.pop()
    while ((this.#heldOut.at(-1)?.step ?? -1) > step) this.#heldOut.pop()
  }

  /** The curve in lines of at most `width` columns; none before there are two places to draw. */
  lines(width: number, height: number, paint: Paint, label: (value: number) => string): string[] {
    const [first, last] = [this.#stretches[0]?.first, this.#stretches.at(-1)?.last]
    const labelWidth = 9
    const columns = Math.min(width - labelWidth, this.#stretches.length)
    if (first === undefined || last === undefined || columns < 2) return []
    const place = (step: number) => Math.min(columns - 1, Math.floor(((step - first) / (last - first + 1)) * columns))
    const drawn = this.#columns(columns, place)
    const marks = new Map(this.#heldOut.filter(({ step }) => step >= first).map(({ step, loss }) => [place(step), loss]))
    const means = drawn.map((column, at) => column && meanAround(drawn, at))
    const [bottom, top] = boundsOf(drawn, [...marks.values()])
    const row = (value: number) => Math.max(0, Math.min(height - 1, Math.floor(((value - bottom) / (top - bottom || 1)) * height)))
    return Array.from({ length: height }, (_, line) => {
      const at = height - 1 - line
      const name = line === 0 ? label(top) : line === height - 1 ? label(bottom) : ''
      const cells = drawn.map((column, index) => cellOf({ column, mean: means[index], mark: marks.get(index) }, at, row, paint))
      return `${paint.dim(name.padStart(labelWidth - 1))} ${cells.join('')}`
    })
  }

  #columns(count: number, place: (step: number) => number): (Column | undefined)[] {
    const columns: (Column | undefined)[] = new Array(count).fill(undefined)
    for (const { first, low, high, sum, count: values } of this.#stretches) {
      const at = place(first)
      const known = columns[at]
      if (known) join(known, { low, high, sum, count: values })
      else columns[at] = { low, high, sum, count: values }
    }
    return columns
  }

  #halve(): void {
    this.#stepsEach *= 2
    const joined: Stretch[] = []
    for (const stretch of this.#stretches) {
      const before = joined.at(-1)
      if (before && stretch.first < before.first + this.#stepsEach) join(before, stretch)
      else joined.push(stretch)
    }
    this.#stretches = joined
  }
}

function join(into: Column & { last?: number }, { low, high, sum, count, last }: Column & Partial<Stretch>): void {
  into.low = Math.min(into.low, low)
  into.high = Math.max(into.high, high)
  into.sum += sum
  into.count += count
  if (last !== undefined) into.last = last
}

/** From the lowest value to the highest that is no rare one: a spike must not flatten the rest. It is marked at the upper edge. */
function boundsOf(columns: readonly (Column | undefined)[], marks: readonly number[]): [number, number] {
  const known = columns.filter((column) => column !== undefined)
  const highs = known.map(({ high }) => high).sort((a, b) => a - b)
  const usual = highs[Math.floor((highs.length - 1) * 0.95)] ?? 0
  const means = known.map(({ sum, count }) => sum / count)
  return [Math.min(...known.map(({ low }) => low), ...marks), Math.max(usual, ...means, ...marks)]
}

/** The mean of a column and its neighbours: losses of single steps differ by chance, and a mean of few of them would jump from row to row. */
function meanAround(columns: readonly (Column | undefined)[], at: number): number {
  const reach = Math.min(neighbours, Math.floor(columns.length / columnsPerNeighbour))
  const near = columns.slice(Math.max(0, at - reach), at + reach + 1).filter((column) => column !== undefined)
  return near.reduce((total, { sum }) => total + sum, 0) / near.reduce((total, { count }) => total + count, 0)
}

interface Cell {
  readonly column: Column | undefined
  readonly mean: number | undefined
  readonly mark: number | undefined
}

function cellOf({ column, mean, mark }: Cell, at: number, row: (value: number) => number, paint: Paint): string {
  if (mark !== undefined && row(mark) === at) return paint.green('◆')
  if (!column) return ' '
  if (mean !== undefined && row(mean) === at) return paint.cyan('━')
  return at >= row(column.low) && at <= row(column.high) ? paint.dim('░') : ' '
}
