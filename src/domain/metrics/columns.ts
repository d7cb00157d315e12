/*
 * The measurements of a run as columns of numbers: one row for each `step` line of its journal, in the order of the journal. Rows
 * that a rolled-back or continued run did again stay and are marked as superseded.
 */

/** What a row has beside the values under `split`, `extra` and `lossByBin`. Missing values are NaN. */
const plainColumns = [
  'step',
  'ts',
  'attempt',
  'loss',
  'learningRate',
  'gradientNorm',
  'secondsPerStep',
  'clips',
  'tokens',
  'memoryBytes',
] as const
type PlainColumn = (typeof plainColumns)[number]

/** A `step` line as it stands in the journal: numbers JSON cannot hold have become real ones. */
export type StepLine = { readonly [Name in PlainColumn]?: number | null | undefined } & {
  readonly step: number
  readonly ts: number
  readonly split?: Readonly<Record<string, number>> | null | undefined
  readonly extra?: Readonly<Record<string, number>> | null | undefined
  readonly lossByBin?: readonly (number | null)[] | null | undefined
}

/** More than any trainer measures; a journal with more keeps its first ones, so that no line can ask for any amount of memory. */
export const mostColumns = 256
const firstCapacity = 1024

/** A place where the run went back: the row that was the next one then, and the step it went back to. */
export interface Rewind {
  readonly row: number
  readonly after: number
}

export class MetricColumns {
  readonly rewinds: Rewind[] = []
  #rows = 0
  #capacity = firstCapacity
  #columns = new Map<string, Float64Array>()
  /** The columns that each row needs; the same as in the map. */
  #steps: Float64Array = new Float64Array()
  #clips: Float64Array = new Float64Array()
  #samples: Float64Array = new Float64Array()
  #superseded = new Uint8Array(firstCapacity)
  /** Rows not superseded, by rising step. */
  #kept: Uint32Array<ArrayBufferLike> = new Uint32Array(firstCapacity)
  #keptCount = 0

  constructor() {
    for (const name of [...plainColumns, 'samples']) this.#columns.set(name, blank(firstCapacity))
    this.#findRowColumns()
  }

  /** Rows so far, superseded ones included. */
  get rows(): number {
    return this.#rows
  }

  /** Bytes that the columns take. */
  get bytes(): number {
    return this.#columns.size * this.#capacity * 8
  }

  /** Names of every column: the plain ones, `samples` (clips trained on so far), `split.*`, `extra.*`, `bin.0`… */
  get names(): readonly string[] {
    return [...this.#columns.keys()]
  }

  /** The values of a column, one a row; undefined where nothing of that name was measured. Valid until the next row is added. */
  column(name: string): Float64Array | undefined {
    return this.#columns.get(name)?.subarray(0, this.#rows)
  }

  /** 1 for rows that were done again later. */
  get superseded(): Uint8Array {
    return this.#superseded.subarray(0, this.#rows)
  }

  /** Rows that count, by rising step. */
  get kept(): Uint32Array {
    return this.#kept.subarray(0, this.#keptCount)
  }

  add(line: StepLine): void {
    const row = this.#nextRow(line.step)
    for (const name of plainColumns) this.#put(name, row, line[name])
    for (const name in line.split) this.#put(`split.${name}`, row, line.split[name])
    for (const name in line.extra) this.#put(`extra.${name}`, row, line.extra[name])
    const bins = line.lossByBin ?? []
    for (let bin = 0; bin < bins.length; bin += 1) this.#put(`bin.${bin}`, row, bins[bin])
    this.#finishRow(row)
  }

  /** Adds whole columns of one length, as they were kept. */
  addColumns(rows: number, columns: ReadonlyMap<string, Float64Array>): void {
    const steps = columns.get('step')
    if (!steps) throw new Error('columns without a step')
    this.#grow(this.#rows + rows)
    for (const [name, values] of columns) {
      if (name !== 'samples') this.#named(name)?.set(values.subarray(0, rows), this.#rows)
    }
    for (let row = 0; row < rows; row += 1) this.#finishRow(this.#nextRow(steps[row] as number))
  }

  /** The run begins again after a step: later rows do not count any more. */
  rewind(after: number): void {
    if (this.#keptCount === 0 || this.#lastKeptStep() <= after) return
    this.rewinds.push({ row: this.#rows, after })
    while (this.#keptCount > 0 && this.#lastKeptStep() > after) {
      this.#keptCount -= 1
      this.#superseded[this.#kept[this.#keptCount] as number] = 1
    }
  }

  #lastKeptStep(): number {
    return this.#steps[this.#kept[this.#keptCount - 1] as number] as number
  }

  #nextRow(step: number): number {
    this.#grow(this.#rows + 1)
    this.rewind(step - 1)
    return this.#rows
  }

  #finishRow(row: number): void {
    const before = this.#keptCount === 0 ? -1 : (this.#kept[this.#keptCount - 1] as number)
    const stepBefore = before === -1 ? 0 : (this.#steps[before] as number)
    const samplesBefore = before === -1 ? 0 : (this.#samples[before] as number)
    this.#samples[row] = samplesBefore + ((this.#steps[row] as number) - stepBefore) * (this.#clips[row] as number)
    this.#kept[this.#keptCount] = row
    this.#keptCount += 1
    this.#rows = row + 1
  }

  #findRowColumns(): void {
    const named = (name: string) => this.#columns.get(name) as Float64Array
    this.#steps = named('step')
    this.#clips = named('clips')
    this.#samples = named('samples')
  }

  #put(name: string, row: number, value: number | null | undefined): void {
    const column = value === null || value === undefined ? undefined : this.#named(name)
    if (column) column[row] = value as number
  }

  #named(name: string): Float64Array | undefined {
    const known = this.#columns.get(name)
    if (known || this.#columns.size >= mostColumns) return known
    const made = blank(this.#capacity)
    this.#columns.set(name, made)
    return made
  }

  #grow(rows: number): void {
    if (rows <= this.#capacity) return
    this.#capacity = Math.max(rows, this.#capacity * 2)
    for (const [name, values] of this.#columns) {
      const larger = blank(this.#capacity)
      larger.set(values.subarray(0, this.#rows))
      this.#columns.set(name, larger)
    }
    this.#findRowColumns()
    const [superseded, kept] = [new Uint8Array(this.#capacity), new Uint32Array(this.#capacity)]
    superseded.set(this.#superseded)
    kept.set(this.#kept)
    this.#superseded = superseded
    this.#kept = kept
  }
}

function blank(length: number): Float64Array {
  return new Float64Array(length).fill(Number.NaN)
}
