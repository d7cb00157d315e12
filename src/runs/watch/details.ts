import { realpathSync } from 'node:fs'
import { join, sep } from 'node:path'
import { UserError } from '../../domain/errors.ts'
import type { RunIdentity } from '../../domain/protocol.ts'
import { filesOf } from '../../store/runs.ts'
import type { PlacedEvent } from '../../store/trainer-record.ts'
import type { RunWatch } from './run-watch.ts'
import { type Axis, placesOf } from './series.ts'
import { numberOrNull, type RunSummary } from './summary.ts'

/** Something that happened, to be marked on the curves. `at` is its place on the axis; null where it has none. */
export interface Mark {
  readonly kind: 'change' | 'phase' | 'checkpoint' | 'incident' | 'rollback' | 'start' | 'command'
  readonly step: number
  readonly at: number | null
  readonly text: string
}

export interface HeldOutMeasure {
  readonly step: number
  readonly at: number | null
  readonly raw: number | null
  readonly ema: number | null
  readonly standardError: number | null
  readonly psnr: number | null
}

export interface Sample {
  readonly index: number
  readonly step: number
  readonly prompt: string
}

export interface AttemptLine {
  readonly number: number
  readonly engine: string
  readonly host: string | null
  readonly startedAt: number
  readonly reason: string | null
  readonly message: string | null
  readonly hint: string | null
}

/** Everything about a run but its curves. */
export interface RunDetails {
  readonly summary: RunSummary
  readonly identity: RunIdentity
  readonly cursor: string
  readonly columns: readonly string[]
  readonly marks: readonly Mark[]
  readonly heldOut: readonly HeldOutMeasure[]
  readonly samples: readonly Sample[]
  readonly attempts: readonly AttemptLine[]
  readonly data: { readonly clips: number; readonly heldOut: number; readonly stepsPerEpoch: number; readonly endsBecause: string } | null
  readonly model: { readonly parameters: number; readonly trainable: number } | null
  readonly device: string | null
}

/** The details of a run, with what happened placed on an axis. */
export function detailsOf(watch: RunWatch, axis: Axis): RunDetails {
  const state = watch.state()
  const marks = watch.record.events.flatMap(markOf)
  const places = placesOf(watch, axis, [...marks.map(({ step }) => step), ...state.heldOut.map(({ step }) => step)])
  return {
    summary: watch.summary(),
    identity: watch.run.identity,
    cursor: watch.cursor,
    columns: watch.record.columns.names.filter((name) => watch.record.columns.column(name)?.some((value) => !Number.isNaN(value))),
    marks: marks.map((mark, place) => ({ ...mark, at: numberOrNull(places[place]) })),
    heldOut: state.heldOut.map(({ step, raw, ema }, place) => ({
      step,
      at: numberOrNull(places[marks.length + place]),
      raw: numberOrNull(raw.loss),
      ema: numberOrNull(ema?.loss),
      standardError: numberOrNull((ema ?? raw).standardError ?? undefined),
      psnr: numberOrNull((ema ?? raw).psnr ?? undefined),
    })),
    samples: state.samples.map(({ step, prompt }, index) => ({ index, step, prompt })),
    attempts: state.attempts.map(({ number, engine, host, startedAt, end }) => ({
      number,
      engine,
      host: host ?? null,
      startedAt,
      reason: end?.reason ?? null,
      message: end?.message ?? null,
      hint: end?.hint ?? null,
    })),
    data: state.data ?? null,
    model: state.model ?? null,
    device: state.device ?? null,
  }
}

function markOf({ event }: PlacedEvent): Omit<Mark, 'at'>[] {
  switch (event.event) {
    case 'started':
      return event.attempt > 1
        ? [{ kind: 'start', step: event.step, text: `attempt ${event.attempt} goes on after step ${event.step}` }]
        : []
    case 'phase':
      return [{ kind: 'phase', step: event.step, text: `phase ${event.index + 1}: trains ${event.trainable.join(' ')}` }]
    case 'checkpoint':
      return [{ kind: 'checkpoint', step: event.step, text: `checkpoint of step ${event.step}` }]
    case 'incident':
      return [
        {
          kind: typeof event.rolledBackTo === 'number' ? 'rollback' : 'incident',
          step: event.step,
          text: `${event.kind}: ${event.message}; ${event.action}`,
        },
      ]
    case 'command':
      return [commandMark(event)]
    default:
      return []
  }
}

function commandMark(event: Extract<PlacedEvent['event'], { event: 'command' }>): Omit<Mark, 'at'> {
  const { name, step, status, effective, by, reason, path } = event
  const who = by ? ` by ${by}` : ''
  const why = reason ? `: ${reason}` : ''
  const isChange = name === 'set' && status === 'applied'
  const what = name === 'set' ? `${String(path)} = ${JSON.stringify(effective)}` : name
  return { kind: isChange ? 'change' : 'command', step, text: `${what} ${status} from step ${step}${who}${why}` }
}

/** The file of a sample by its number. Raises UserError SAMPLE_UNKNOWN where there is none, or its path leads out of the run's samples. */
export function sampleFile(watch: RunWatch, index: number): string {
  const sample = watch.state().samples[index]
  const unknown = new UserError('SAMPLE_UNKNOWN', `${watch.run.id}: expected the number of a sample, got ${index}`, {
    hint: 'samples are numbered from 0 in the order they were written',
  })
  if (!sample) throw unknown
  try {
    const [path, folder] = [realpathSync(join(watch.run.folder, sample.path)), realpathSync(filesOf(watch.run.folder).samples)]
    if (path.startsWith(folder + sep)) return path
  } catch {
    // The file is gone: as if it had never been.
  }
  throw unknown
}
