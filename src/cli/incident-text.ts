import type { IncidentPage } from '../domain/run/incident.ts'
import type { Incident } from '../domain/run/state.ts'
import { brief } from './progress.ts'
import { type Paint, printable, table, wrapped } from './terminal.ts'

/** The newest incidents of a run in one line. */
export function incidentsText(incidents: readonly Incident[]): string {
  if (incidents.length === 0) return '–'
  const first = Math.max(0, incidents.length - 3)
  const last = incidents.slice(first).map(({ step, kind, action }, place) => `${first + place + 1}: ${kind} at step ${step}, ${action}`)
  return `${first > 0 ? `${incidents.length}, the last ` : ''}${last.join('; ')} (--incident N shows one)`
}

const shownClips = 16
const shownModules = 12

/** An incident as a page: what, where, the clips, the gradients, what was done, what followed. */
export function incidentLines({ number, of, incident, followed }: IncidentPage, paint: Paint, columns: number): string[] {
  const { step, kind, message, action, advice, source, severity } = incident
  const indented = (text: string) => wrapped(printable(text), Math.max(20, columns - 2)).map((line) => `  ${line}`)
  const section = (title: string, lines: readonly string[]) => (lines.length === 0 ? [] : ['', paint.bold(title), ...lines])
  return [
    `${paint.bold(`incident ${number} of ${of}`)}  ${severity === 'advice' ? paint.yellow(kind) : paint.red(kind)} at step ${step}, attempt ${incident.attempt}, ${new Date(incident.ts * 1000).toISOString()}`,
    ...indented(message),
    ...section('what was done', indented(action)),
    ...section('what followed', followedLines(followed).flatMap(indented)),
    ...section('evidence', evidenceLines(incident).flatMap(indented)),
    ...section('clips of the step', clipLines(incident)),
    ...section('gradient norm by module, before clipping', moduleLines(incident)),
    ...section(
      'where the ranks stood',
      (incident.stacks ?? []).flatMap(({ rank, at, file }) => indented(`rank ${rank}: ${at} (${file})`)),
    ),
    ...section('what to do', advice ? indented(advice) : []),
    ...(source ? ['', ...indented(source).map(paint.dim)] : []),
  ]
}

function followedLines({ lossBefore, lossAfter, steps, next, end }: IncidentPage['followed']): string[] {
  const lines = []
  if (lossAfter !== undefined) {
    const was = lossBefore === undefined ? '' : `, ${brief(lossBefore)} before`
    lines.push(`${steps} steps; mean loss of the first after it ${brief(lossAfter)}${was}`)
  }
  if (next) lines.push(`then incident ${next.number} at step ${next.step}: ${next.kind}`)
  if (end) lines.push(`the run ended: ${end.reason} – ${end.message}`)
  return lines.length === 0 ? ['nothing yet'] : lines
}

function evidenceLines({ evidence }: Incident): string[] {
  if (!evidence || evidence.values.length === 0) return []
  const last = evidence.values.slice(-10)
  const values = last.map(([step, value]) => `${brief(value)} at ${step}`).join(', ')
  const expected = evidence.expected === null ? '' : `; usual ${brief(evidence.expected)}`
  return [
    `${evidence.quantity}, steps ${evidence.from}–${evidence.to}: ${last.length < evidence.values.length ? '… ' : ''}${values}${expected}`,
  ]
}

function clipLines({ clips }: Incident): string[] {
  const all = clips ?? []
  const shown = all.slice(0, shownClips).map((clip) => `  ${printable(clip)}`)
  return all.length > shownClips ? [...shown, `  … and ${all.length - shownClips} more (--json has all)`] : shown
}

function moduleLines({ modules, overflows }: Incident): string[] {
  const rows = Object.entries(modules ?? {}).sort(([, a], [, b]) => size(b) - size(a))
  const shown = rows.slice(0, shownModules).map(([name, norm]) => {
    const bad = overflows?.[name]
    return [name, brief(norm), bad ? `${bad} values are no number` : '']
  })
  const lines = table(shown, '  ')
  return rows.length > shownModules ? [...lines, `  … and ${rows.length - shownModules} smaller`] : lines
}

/** What is no number comes first. */
function size(norm: number): number {
  return Number.isFinite(norm) ? norm : Number.POSITIVE_INFINITY
}
