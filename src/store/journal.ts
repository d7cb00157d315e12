import { closeSync, fdatasyncSync, fstatSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs'
import type { z } from 'zod'
import { UserError } from '../domain/errors.ts'
import { formatVersion, type SupervisorEvent, supervisorEvent, type TrainerEvent, trainerEvent } from '../domain/protocol.ts'

const newline = 0x0a
const chunkBytes = 1 << 20

/** A journal read so far: lines are taken as they come, a torn last line is left for later. */
export class JournalReader<Event> {
  readonly #path: string
  readonly #schema: z.ZodType<Event>
  #offset = 0
  #line = 0
  #rest: Buffer<ArrayBufferLike> = Buffer.alloc(0)

  constructor(path: string, schema: z.ZodType<Event>) {
    this.#path = path
    this.#schema = schema
  }

  /**
   * Events that have been added since the last call. Lines that are no known event are skipped: a newer trainer may say more.
   * Raises UserError FORMAT_VERSION where the first line names another format.
   */
  next(): Event[] {
    const events: Event[] = []
    let file: number
    try {
      file = openSync(this.#path, 'r')
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return events
      throw cause
    }
    try {
      if (fstatSync(file).size < this.#offset) this.#restart()
      const buffer = Buffer.allocUnsafe(chunkBytes)
      for (;;) {
        const read = readSync(file, buffer, 0, chunkBytes, this.#offset)
        if (read === 0) break
        this.#offset += read
        this.#take(buffer.subarray(0, read), events)
      }
    } finally {
      closeSync(file)
    }
    return events
  }

  /** The torn line of a killed writer was cut off: what stood there was never taken, so reading goes on at the new end. */
  #restart(): void {
    this.#offset -= this.#rest.length
    this.#rest = Buffer.alloc(0)
  }

  #take(chunk: Buffer, events: Event[]): void {
    const data = this.#rest.length > 0 ? Buffer.concat([this.#rest, chunk]) : chunk
    let start = 0
    for (let end = data.indexOf(newline, start); end !== -1; end = data.indexOf(newline, start)) {
      this.#line += 1
      const event = this.#parse(data.toString('utf8', start, end))
      if (event !== undefined) events.push(event)
      start = end + 1
    }
    this.#rest = Buffer.from(data.subarray(start))
  }

  #parse(line: string): Event | undefined {
    let value: unknown
    try {
      value = JSON.parse(line)
    } catch {
      return undefined
    }
    if (this.#line === 1) this.#checkFormat(value)
    const parsed = this.#schema.safeParse(value)
    return parsed.success ? parsed.data : undefined
  }

  #checkFormat(first: unknown): void {
    const version = (first as { formatVersion?: unknown } | null)?.formatVersion
    if (version !== undefined && version !== formatVersion) {
      const message = `${this.#path}:1: expected journal format ${formatVersion}, got ${String(version)}`
      throw new UserError('FORMAT_VERSION', message, { hint: 'use the Stagewright version that wrote the run' })
    }
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

type Body = SupervisorEvent extends infer Event ? (Event extends SupervisorEvent ? Omit<Event, 'seq' | 'ts' | 'attempt'> : never) : never

/** Writer of `supervisor.jsonl`: append-only, flushed line by line. Whoever writes holds `supervisor.lock`. */
export class SupervisorJournal {
  readonly #file: number
  #seq: number

  constructor(path: string) {
    this.#file = openSync(path, 'a+', 0o600)
    this.#seq = this.#cutTornLine()
    if (this.#seq === 0) this.append(0, { event: 'opened', formatVersion } as Body)
  }

  append(attempt: number, body: Body): void {
    const line = JSON.stringify({ seq: this.#seq, ts: Date.now() / 1000, attempt, ...body })
    writeSync(this.#file, `${line}\n`)
    fdatasyncSync(this.#file)
    this.#seq += 1
  }

  close(): void {
    closeSync(this.#file)
  }

  /** Cuts off what a killed writer left of a line; returns the next number. */
  #cutTornLine(): number {
    const size = fstatSync(this.#file).size
    const data = Buffer.alloc(size)
    readSync(this.#file, data, 0, size, 0)
    const end = data.lastIndexOf(newline) + 1
    if (end < size) ftruncateSync(this.#file, end)
    const lines = data.toString('utf8', 0, end).split('\n').filter(Boolean)
    const last = lines.at(-1)
    return last === undefined ? 0 : Number((JSON.parse(last) as { seq: number }).seq) + 1
  }
}
