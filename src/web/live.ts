import type { ServerResponse } from 'node:http'
import type { RunWatch } from '../runs/watch/run-watch.ts'
import type { RunSummary } from '../runs/watch/summary.ts'
import { jsonText } from './answers.ts'

/** How often the journals of a run somebody looks at are looked at. */
const lookMs = 250
const beatMs = 15_000
/** A viewer that takes this little is told nothing until it has caught up; then it is told everything since. */
const mostBuffered = 1024 * 1024
/** Events in one message; earlier ones are counted. */
const mostEvents = 200
/** Requests a second that all viewers of a run together may make for new curves. */
const refreshesPerSecond = 50

/** What a viewer is told: where the run stands and what has happened since its last message. */
export interface LiveMessage {
  readonly formatVersion: 1
  readonly cursor: string
  readonly summary: RunSummary
  /** Journal lines other than steps since the viewer's last message, the newest at most `mostEvents` of them. */
  readonly events: readonly unknown[]
  readonly left: number
  /** How long a page should wait before it asks for new curves again. */
  readonly refreshMs: number
}

interface Viewer {
  readonly response: ServerResponse
  cursor: string
}

/**
 * Tells everyone who looks at a run of what its journals have grown by, at most four times a second. A viewer says what it has seen
 * (`Last-Event-ID`) and is told all that came after.
 */
export class LiveRun {
  readonly watch: RunWatch
  readonly #viewers = new Set<Viewer>()
  #clock: NodeJS.Timeout | undefined
  #beat = 0

  constructor(watch: RunWatch) {
    this.watch = watch
  }

  join(response: ServerResponse, seen: string): void {
    const viewer = { response, cursor: seen }
    this.#viewers.add(viewer)
    response.on('close', () => this.#leave(viewer))
    response.on('error', () => this.#leave(viewer))
    response.write(': open\n\n')
    this.#tell()
    this.#clock ??= setInterval(() => void this.#look(), lookMs)
  }

  /** Ends every conversation. */
  close(): void {
    for (const { response } of this.#viewers) response.end()
    this.#viewers.clear()
    clearInterval(this.#clock)
  }

  #leave(viewer: Viewer): void {
    this.#viewers.delete(viewer)
    if (this.#viewers.size > 0) return
    clearInterval(this.#clock)
    this.#clock = undefined
  }

  async #look(): Promise<void> {
    try {
      await this.watch.update()
    } catch (cause) {
      this.#send(`event: failed\ndata: ${JSON.stringify({ message: cause instanceof Error ? cause.message : String(cause) })}\n\n`)
      this.close()
      return
    }
    this.#tell()
    this.#beat += lookMs
    if (this.#beat < beatMs) return
    this.#beat = 0
    this.#send(': beat\n\n')
  }

  #tell(): void {
    const { cursor } = this.watch
    const texts = new Map<string, string>()
    for (const viewer of this.#viewers) {
      if (viewer.cursor === cursor || viewer.response.writableLength > mostBuffered) continue
      const text = texts.get(viewer.cursor) ?? `id: ${cursor}\ndata: ${jsonText(this.#messageSince(viewer.cursor))}\n\n`
      texts.set(viewer.cursor, text)
      viewer.response.write(text)
      viewer.cursor = cursor
    }
  }

  #messageSince(cursor: string): LiveMessage {
    const seen = Number(/^(-?\d+)\./.exec(cursor)?.[1] ?? -1)
    const { events } = this.watch.record
    const first = events.findLastIndex(({ event }) => event.seq <= seen) + 1
    const since = events.slice(first)
    return {
      formatVersion: 1,
      cursor: this.watch.cursor,
      summary: this.watch.summary(),
      events: since.slice(-mostEvents).map(({ event }) => event),
      left: Math.max(0, since.length - mostEvents),
      refreshMs: Math.max(500, Math.round((this.#viewers.size * 1000) / refreshesPerSecond)),
    }
  }

  #send(text: string): void {
    for (const { response } of this.#viewers) if (response.writableLength <= mostBuffered) response.write(text)
  }
}
