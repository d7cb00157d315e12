import { statSync } from 'node:fs'
import { MetricColumns, type StepLine } from '../domain/metrics/columns.ts'
import type { TrainerEvent } from '../domain/protocol.ts'
import { parseTrainerLine } from './journal.ts'
import { GrowingLines } from './lines.ts'
import { readSegment, type Segment, writeSegment } from './segments.ts'

/** A journal is kept as segments once this much of it has not been kept yet; less is read again in no time. */
const segmentBytes = 4 * 1024 * 1024
/** The most of a journal that one segment stands for. */
const longestSegmentBytes = 64 * 1024 * 1024
/** What is read before others have their turn. */
const sliceBytes = 4 * 1024 * 1024

type OtherEvent = Exclude<TrainerEvent, { event: 'step' | 'heartbeat' }>

/** An event other than a step, with the number of `step` rows before it. */
export interface PlacedEvent {
  readonly row: number
  readonly event: OtherEvent
}

/** Everything a trainer has said of a run: its steps as columns, the rest as events. Grows with its journal. */
export class TrainerRecord {
  readonly columns = new MetricColumns()
  readonly events: PlacedEvent[] = []
  /** Number and time of the last line; -1 and 0 before the first. */
  readonly last = { seq: -1, ts: 0 }
  readonly #journal: string
  readonly #derived: string
  #lines: GrowingLines
  #isOpen = false
  /** Since the last segment. */
  #unkept: { start: number; row: number; texts: [number, string][] } = { start: 0, row: 0, texts: [] }

  /** `trainer` is the journal, `derived` the folder for what is kept of it. */
  constructor({ trainer, derived }: { readonly trainer: string; readonly derived: string }) {
    this.#journal = trainer
    this.#derived = derived
    this.#lines = new GrowingLines(this.#journal)
  }

  /** Bytes of the journal that are in the record. */
  get offset(): number {
    return this.#lines.offset
  }

  /** Whether the journal is shorter than what was read of it: it is another one now, and needs a new record. */
  isStale(): boolean {
    return sizeOf(this.#journal) < this.#lines.offset
  }

  /**
   * Takes what the journal has grown by; other work goes on in between. Must not be called again before it is done. Returns whether
   * anything came. Raises UserError FORMAT_VERSION.
   */
  async update(): Promise<boolean> {
    const before = this.#lines.offset
    while (this.#readSlice()) await new Promise(setImmediate)
    return this.#lines.offset > before
  }

  /** The same in one go. */
  updateNow(): void {
    while (this.#readSlice());
  }

  /** Reads a part of what the journal has grown by; returns whether there may be more. */
  #readSlice(): boolean {
    if (!this.#isOpen) this.#takeSegments()
    this.#isOpen = true
    const isMore = this.#lines.read((bytes, start, end) => this.#take(bytes.toString('utf8', start, end)), sliceBytes)
    const unkept = this.#lines.offset - this.#unkept.start
    if (unkept >= (isMore ? longestSegmentBytes : segmentBytes)) this.#keep()
    return isMore
  }

  #takeSegments(): void {
    let at = 0
    for (let segment = this.#segmentFrom(at); segment; segment = this.#segmentFrom(at)) {
      this.#takeSegment(segment)
      at = segment.end
    }
    this.#lines = new GrowingLines(this.#journal, at)
    this.#unkept = { start: at, row: this.columns.rows, texts: [] }
  }

  #segmentFrom(start: number): Segment | undefined {
    return sizeOf(this.#journal) > start ? readSegment(this.#derived, this.#journal, start) : undefined
  }

  #takeSegment({ rows, columns, events, seq, ts }: Segment): void {
    const base = this.columns.rows
    let done = 0
    const upTo = (row: number) => {
      if (row > done) this.columns.addColumns(row - done, new Map([...columns].map(([name, values]) => [name, values.subarray(done, row)])))
      done = Math.max(done, row)
    }
    for (const [row, text] of events) {
      const event = parseTrainerLine(text, this.#journal)
      if (event && goesBackTo(event) !== undefined) upTo(row)
      if (event) this.#addEvent(event, base + row)
    }
    upTo(rows)
    Object.assign(this.last, { seq, ts })
  }

  #take(text: string): void {
    const event = parseTrainerLine(text, this.#journal)
    if (!event) return
    Object.assign(this.last, { seq: event.seq, ts: Math.max(this.last.ts, event.ts) })
    if (event.event === 'step') this.columns.add(event as StepLine)
    else if (event.event !== 'heartbeat') {
      this.#unkept.texts.push([this.columns.rows - this.#unkept.row, text])
      this.#addEvent(event, this.columns.rows)
    }
  }

  #addEvent(event: TrainerEvent, row: number): void {
    if (event.event === 'step' || event.event === 'heartbeat') return
    const step = goesBackTo(event)
    if (step !== undefined) this.columns.rewind(step)
    this.events.push({ row, event })
  }

  /** Keeps what came since the last segment as one of its own. */
  #keep(): void {
    const { start, row, texts } = this.#unkept
    const rows = this.columns.rows - row
    const names = this.columns.names.filter((name) => name !== 'samples')
    const columns = new Map(names.map((name) => [name, this.columns.column(name)?.subarray(row) ?? new Float64Array(rows)]))
    writeSegment(this.#derived, this.#journal, { start, end: this.#lines.offset, rows, columns, events: texts, ...this.last })
    this.#unkept = { start: this.#lines.offset, row: this.columns.rows, texts: [] }
  }
}

/** The step a run goes on from: an attempt that begins, or a roll-back. */
function goesBackTo(event: TrainerEvent): number | undefined {
  if (event.event === 'started') return event.step
  return event.event === 'incident' ? (event.rolledBackTo ?? undefined) : undefined
}

function sizeOf(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.size ?? 0
}
