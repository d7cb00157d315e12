import type { Curve } from '../../domain/metrics/m4.ts'
import type { SeriesAnswer } from '../../runs/watch/series.ts'
import type { LiveMessage } from '../live.ts'

/*
 * Where the page has its data from: the server that sent it, or, in a report, the file itself. The token comes with the address and is kept
 * for this tab, and for tabs opened from it.
 */

export interface PageError {
  readonly code: string
  readonly message: string
  readonly hint: string | null
}

/** An answer that was a refusal. */
export class AnswerError extends Error {
  readonly code: string
  readonly hint: string | null

  constructor({ code, message, hint }: PageError) {
    super(message)
    this.code = code
    this.hint = hint
  }
}

/** What a report carries: answers by the path they would be asked under. */
interface Report {
  readonly answers: Readonly<Record<string, unknown>>
  readonly samples: Readonly<Record<string, string>>
}

const reportElement = document.getElementById('report')
const report = reportElement ? (JSON.parse(reportElement.textContent ?? '{}') as Report) : undefined
export const isReport = report !== undefined

const tokenName = 'stagewright-token'

/** Takes the token out of the address, so that it is in no bookmark and on no projector. */
export function takeToken(): void {
  const [, token] = /[#&]token=([\w-]+)/.exec(location.hash) ?? []
  if (!token) return
  sessionStorage.setItem(tokenName, token)
  localStorage.setItem(tokenName, token)
  history.replaceState(null, '', `${location.pathname}#/`)
}

function headers(): Record<string, string> {
  const token = sessionStorage.getItem(tokenName) ?? localStorage.getItem(tokenName)
  return token ? { authorization: `Bearer ${token}` } : {}
}

/** Reads a JSON answer. Raises AnswerError where it is a refusal. */
export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  if (report) return reported(report, path) as T
  const response = await fetch(path, { headers: headers(), signal: signal ?? null })
  return (await taken(response)) as T
}

/** Sends a command and waits for what came of it. */
export async function post<T>(path: string, body: object): Promise<T> {
  const response = await fetch(path, {
    method: 'POST',
    headers: { ...headers(), 'content-type': 'application/json' },
    body: JSON.stringify(body),
  })
  return (await taken(response)) as T
}

/** Address of a sample video that an element can show; the caller revokes it. */
export async function sampleUrl(path: string): Promise<string> {
  if (report) return report.samples[path] ?? ''
  const response = await fetch(path, { headers: headers() })
  if (!response.ok) await taken(response)
  return URL.createObjectURL(await response.blob())
}

async function taken(response: Response): Promise<unknown> {
  const value = (await response.json()) as { error?: PageError }
  if (value.error) throw new AnswerError(value.error)
  return value
}

/** A report has each answer once, for the whole run; what is asked beyond is left out. */
function reported({ answers }: Report, path: string): unknown {
  const base = path.split('?')[0] ?? path
  const axis = new URLSearchParams(path.split('?')[1]).get('axis') ?? 'step'
  const found = answers[path] ?? answers[`${base}?axis=${axis}`] ?? answers[base]
  if (found) return base.endsWith('/series') ? inView(found as SeriesAnswer, new URLSearchParams(path.split('?')[1])) : found
  throw new AnswerError({ code: 'REPORT', message: 'this is not part of the report', hint: 'open the run with `stagewright web`' })
}

/** The asked columns of the curves a report has, cut to the part asked for. */
function inView(answer: SeriesAnswer, query: URLSearchParams): SeriesAnswer {
  const columns = query.get('columns')?.split(',') ?? []
  const [from, to] = [Number(query.get('from') ?? answer.from), Number(query.get('to') ?? answer.to)]
  const series = answer.series.filter(({ column }) => columns.includes(column))
  const cut = (curve: Curve): Curve => {
    const places = curve.x.flatMap((x, place) => (x >= from && x <= to ? [place] : []))
    const [first = 0, last = -1] = [places[0], places.at(-1)]
    const part = <T>(values: readonly T[]) => values.slice(Math.max(0, first - 1), last + 2)
    const isWhole = from <= answer.from && to >= answer.to
    return { ...curve, x: part(curve.x), y: part(curve.y), points: isWhole ? curve.points : places.length }
  }
  const cutSeries = series.map(({ column, curve, smooth, superseded }) => ({
    column,
    curve: cut(curve),
    smooth: smooth && cut(smooth),
    superseded: superseded && cut(superseded),
  }))
  return { ...answer, from, to, series: cutSeries }
}

const firstWaitMs = 500
/** The server says something every 15 seconds; a connection silent for longer has died while this computer slept. */
const longestSilenceMs = 40_000
const longestWaitMs = 8000

/**
 * Follows a run's live events until `signal` aborts: after a broken connection it goes on from the last one seen, so that nothing is
 * missed. `onState` hears whether it is connected.
 */
export async function followRun(
  id: string,
  onMessage: (message: LiveMessage) => void,
  onState: (isConnected: boolean) => void,
  signal: AbortSignal,
): Promise<void> {
  let seen = ''
  let wait = firstWaitMs
  while (!signal.aborted && !report) {
    const watch = new Silence(longestSilenceMs)
    try {
      const response = await fetch(`/api/runs/${id}/events`, {
        headers: { ...headers(), ...(seen ? { 'last-event-id': seen } : {}) },
        signal: AbortSignal.any([signal, watch.signal]),
      })
      if (!response.ok || !response.body) await taken(response)
      onState(true)
      wait = firstWaitMs
      for await (const message of messagesOf(response.body as ReadableStream<Uint8Array>, () => watch.heard())) {
        seen = message.cursor
        onMessage(message)
      }
    } catch (cause) {
      if (cause instanceof AnswerError) throw cause
    } finally {
      watch.end()
    }
    if (signal.aborted) return
    onState(false)
    await new Promise((resolve) => setTimeout(resolve, wait))
    wait = Math.min(longestWaitMs, wait * 2)
  }
}

/** Aborts when nothing was heard for a while. */
class Silence {
  readonly #ms: number
  readonly #abort = new AbortController()
  #clock: ReturnType<typeof setTimeout> | undefined

  constructor(ms: number) {
    this.#ms = ms
    this.heard()
  }

  get signal(): AbortSignal {
    return this.#abort.signal
  }

  heard(): void {
    clearTimeout(this.#clock)
    this.#clock = setTimeout(() => this.#abort.abort(), this.#ms)
  }

  end(): void {
    clearTimeout(this.#clock)
  }
}

async function* messagesOf(body: ReadableStream<Uint8Array>, onHeard: () => void): AsyncGenerator<LiveMessage> {
  const reader = body.pipeThrough(new TextDecoderStream() as unknown as ReadableWritablePair<string, Uint8Array>).getReader()
  let text = ''
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    onHeard()
    const messages = (text + part.value).split('\n\n')
    text = messages.pop() ?? ''
    for (const message of messages) {
      const [, data] = /^data: (.*)$/m.exec(message) ?? []
      if (data && !message.startsWith('event: failed')) yield JSON.parse(data) as LiveMessage
    }
  }
}
