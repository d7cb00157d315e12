import { closeSync, fdatasyncSync, ftruncateSync, openSync, readFileSync, readSync, writeFileSync } from 'node:fs'
import type { z } from 'zod'
import { type ChainEvent, chainEvent } from '../domain/chain.ts'
import { UserError } from '../domain/errors.ts'
import { formatVersion, maxLineBytes, type SupervisorEvent, supervisorEvent, type TrainerEvent, trainerEvent } from '../domain/protocol.ts'

const newline = 0x0a
/** At least the longest line, so that a chunk without a line end is no line. */
const chunkBytes = maxLineBytes

/** A journal read so far: whole lines are taken as they come, a torn last line is read again once more of it is there. */
export class JournalReader<Event> {
  readonly #path: string
  readonly #schema: z.ZodType<Event>
  /** Where the first line not taken yet begins. A continued run cuts a torn line off and writes over it, so nothing of it is kept. */
  #offset = 0
  #isSkippingLongLine = false

  constructor(path: string, schema: z.ZodType<Event>) {
    this.#path = path
    this.#schema = schema
  }

  /**
   * Events that have been added since the last call. Lines that are no known event are skipped: a newer trainer may say more.
   * Raises UserError FORMAT_VERSION where the journal is of another format.
   */
  next(): Event[] {
    const events: Event[] = []
    const file = openIfThere(this.#path)
    if (file === undefined) return events
    try {
      const buffer = Buffer.allocUnsafe(chunkBytes)
      for (;;) {
        const read = readSync(file, buffer, 0, chunkBytes, this.#offset)
        const taken = this.#take(buffer.subarray(0, read), events)
        if (taken === 0) return events
        this.#offset += taken
      }
    } finally {
      closeSync(file)
    }
  }

  /** Takes the whole lines at the start of some bytes; returns how many bytes that were. A line beyond the limit is passed over. */
  #take(bytes: Buffer, events: Event[]): number {
    let start = 0
    for (let end = bytes.indexOf(newline); end !== -1; end = bytes.indexOf(newline, start)) {
      const event = this.#isSkippingLongLine ? undefined : this.#parse(bytes.toString('utf8', start, end))
      if (event !== undefined) events.push(event)
      this.#isSkippingLongLine = false
      start = end + 1
    }
    if (start > 0 || bytes.length < maxLineBytes) return start
    this.#isSkippingLongLine = true
    return bytes.length
  }

  #parse(line: string): Event | undefined {
    let value: unknown
    try {
      value = JSON.parse(line)
    } catch {
      return undefined
    }
    this.#checkFormat(value)
    const parsed = this.#schema.safeParse(value)
    return parsed.success ? parsed.data : undefined
  }

  #checkFormat(value: unknown): void {
    const version = (value as { formatVersion?: unknown } | null)?.formatVersion
    if (version === undefined || version === formatVersion) return
    const message = `${this.#path}: expected journal format ${formatVersion}, got ${String(version)}`
    throw new UserError('FORMAT_VERSION', message, { hint: 'use the Stagewright version that wrote the run' })
  }
}

function openIfThere(path: string): number | undefined {
  try {
    return openSync(path, 'r')
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw cause
  }
}

/** Reader of `trainer.jsonl`. */
export function trainerJournal(path: string): JournalReader<TrainerEvent> {
  return new JournalReader(path, trainerEvent)
}

/** Reader of `supervisor.jsonl`. */
export function supervisorJournal(path: string): JournalReader<SupervisorEvent> {
  return new JournalReader(path, supervisorEvent)
}

/** Reader of a chain's `chain.jsonl`. */
export function chainJournal(path: string): JournalReader<ChainEvent> {
  return new JournalReader(path, chainEvent)
}

/**
 * Writer of a journal: append-only, numbered, flushed line by line; its first line says the format. Whoever writes holds the lock
 * that goes with the file.
 */
export class JournalWriter {
  readonly #file: number
  readonly #opening: object
  #seq: number

  /** `opening` are fields of the first line beside its number, time and format. */
  constructor(path: string, opening: object = {}) {
    this.#file = openSync(path, 'a+', 0o600)
    this.#opening = opening
    this.#seq = this.#cutTornLine()
    if (this.#seq === 0) this.append({ ...this.#opening, event: 'opened', formatVersion })
  }

  append(body: object): void {
    writeFileSync(this.#file, `${JSON.stringify({ seq: this.#seq, ts: Date.now() / 1000, ...body })}\n`)
    fdatasyncSync(this.#file)
    this.#seq += 1
  }

  close(): void {
    closeSync(this.#file)
  }

  /** Cuts off what a killed writer left of a line; returns the next number. */
  #cutTornLine(): number {
    const text = readFileSync(this.#file)
    const end = text.lastIndexOf(newline) + 1
    if (end < text.length) ftruncateSync(this.#file, end)
    const numbers = text
      .toString('utf8', 0, end)
      .split('\n')
      .map((line) => /^\{"seq":(\d+),/.exec(line)?.[1])
      .filter((number) => number !== undefined)
    return numbers.length === 0 ? 0 : Number(numbers.at(-1)) + 1
  }
}

/** A journal's line without what its writer adds. */
export type BodyOf<Event, Head extends string> = Event extends unknown
  ? { [Key in keyof Event as Key extends Head ? never : Key]: Event[Key] }
  : never

/** Writer of `supervisor.jsonl`. */
export class SupervisorJournal {
  readonly #journal: JournalWriter

  constructor(path: string) {
    this.#journal = new JournalWriter(path, { attempt: 0 })
  }

  append(attempt: number, body: BodyOf<SupervisorEvent, 'seq' | 'ts' | 'attempt'>): void {
    this.#journal.append({ attempt, ...body })
  }

  close(): void {
    this.#journal.close()
  }
}
