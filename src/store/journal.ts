import { closeSync, fdatasyncSync, ftruncateSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import type { z } from 'zod'
import { type ChainEvent, chainEvent } from '../domain/chain.ts'
import { UserError } from '../domain/errors.ts'
import { formatVersion, type SupervisorEvent, supervisorEvent, type TrainerEvent, trainerEvent } from '../domain/protocol.ts'
import { GrowingLines } from './lines.ts'
import { plainStep } from './step-line.ts'

const newline = 0x0a

/** A journal read so far. Another reader of the same file knows nothing of it. */
export class JournalReader<Event> {
  readonly #path: string
  readonly #schema: z.ZodType<Event>
  readonly #quick: ((value: unknown) => Event | undefined) | undefined
  readonly #lines: GrowingLines

  /** `quick` recognises frequent events without the schema; what it leaves undefined the schema decides. */
  constructor(path: string, schema: z.ZodType<Event>, quick?: (value: unknown) => Event | undefined) {
    this.#path = path
    this.#schema = schema
    this.#quick = quick
    this.#lines = new GrowingLines(path)
  }

  /**
   * Events that have been added since the last call. Lines that are no known event are skipped: a newer trainer may say more.
   * Raises UserError FORMAT_VERSION where the journal is of another format.
   */
  next(): Event[] {
    const events: Event[] = []
    this.#lines.read((bytes, start, end) => {
      const value = jsonOf(bytes.toString('utf8', start, end), this.#path)
      const event = this.#quick?.(value) ?? this.#schema.safeParse(value).data
      if (event !== undefined) events.push(event)
    })
    return events
  }
}

/** The trainer's event in a line of a journal; undefined where it is no known one. Raises UserError FORMAT_VERSION. */
export function parseTrainerLine(line: string, path: string): TrainerEvent | undefined {
  const value = jsonOf(line, path)
  return plainStep(value) ?? trainerEvent.safeParse(value).data
}

function jsonOf(line: string, path: string): unknown {
  let value: unknown
  try {
    value = JSON.parse(line)
  } catch {
    return undefined
  }
  const version = (value as { formatVersion?: unknown } | null)?.formatVersion
  if (version === undefined || version === formatVersion) return value
  const message = `${path}: expected journal format ${formatVersion}, got ${String(version)}`
  throw new UserError('FORMAT_VERSION', message, { hint: 'use the Stagewright version that wrote the run' })
}

/** Reader of `trainer.jsonl`. */
export function trainerJournal(path: string): JournalReader<TrainerEvent> {
  return new JournalReader(path, trainerEvent, plainStep)
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

  append(body: object, options: { flush?: boolean } = {}): void {
    this.appendAll([body], options)
  }

  /**
   * Several lines with one flush; a body may say its own time. Without `flush` a power cut, but no kill, may take the lines together
   * with what came since the last flush.
   */
  appendAll(bodies: readonly object[], { flush = true }: { flush?: boolean } = {}): void {
    const now = Date.now() / 1000
    const lines = bodies.map((body, at) => `${JSON.stringify({ seq: this.#seq + at, ts: now, ...body })}\n`)
    writeFileSync(this.#file, lines.join(''))
    if (flush) fdatasyncSync(this.#file)
    this.#seq += bodies.length
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
