import type { Change } from '../domain/diff/change.ts'
import type { SweepEvent } from '../domain/sweep/journal.ts'
import type { RankedPoint } from '../domain/sweep/ranking.ts'
import type { SweepFold, Trial } from '../domain/sweep/state.ts'
import type { SweepReport } from '../runs/sweep/report.ts'
import { brief, duration } from './progress.ts'
import { cut, type Paint, table } from './terminal.ts'

/** What a person is told while a sweep goes on; undefined for what is not worth a line. */
export function newsLine(event: SweepEvent, fold: SweepFold, { dim, green, yellow, red }: Paint): string | undefined {
  switch (event.event) {
    case 'point':
      return event.infeasible === null ? undefined : dim(`point ${event.point} passed over: ${event.infeasible}`)
    case 'starting': {
      const trial = fold.trial(event.trial)
      const from = event.branchedFrom ? ` from step ${event.branchedFrom.step} of trial ${event.branchedFrom.trial}` : ''
      return `trial ${event.trial}: ${trial ? settingsText(trial) : ''}  ${dim(event.run + from)}`
    }
    case 'retried':
      return yellow(`trial ${event.trial}: goes on after ${event.message}`)
    case 'trialEnded': {
      const paint = event.state === 'done' ? green : event.state === 'pruned' ? dim : red
      const loss = event.value === null ? event.message : `${brief(event.value)} at step ${event.step}`
      return paint(`trial ${event.trial}: ${event.state}${event.class ? ` (${event.class})` : ''}, ${loss}`)
    }
    case 'ended':
      return `${event.reason}: ${event.message}`
    default:
      return undefined
  }
}

function settingsText({ values, seed }: Trial): string {
  const parts = Object.entries(values).map(([path, value]) => `${path}=${valueText(value)}`)
  return [...parts, ...(seed === null ? [] : [`seed=${seed}`])].join(' ')
}

function valueText(value: unknown): string {
  return typeof value === 'number' ? brief(value) : JSON.stringify(value)
}

/** A report for a terminal. */
export function reportLines(report: SweepReport, paint: Paint): string[] {
  const { bold, dim } = paint
  const { ranking, importance, spent, saved } = report
  const lines = [`${bold(report.name)} ${dim(`${report.id}, stage ${report.stage}`)}`, `  ${standingText(report)}`]
  const rows = ranking.points.map((point) => rowOf(point, report))
  if (rows.length > 0) lines.push('', ...table([['rank', 'point', 'loss', '', 'status', 'against the best'].map(dim), ...rows], '  '))
  const { best, cheapest } = ranking
  if (best && cheapest && best.point !== cheapest.point)
    lines.push('', `  cheapest within 1 %: point ${cheapest.point}, ${brief(cheapest.value ?? undefined)}, ${costText(cheapest, best)}`)
  const parts = Object.entries(importance.importance).sort(([, a], [, b]) => b - a)
  if (parts.length > 0)
    lines.push(
      '',
      `  importance (${importance.method}): ${parts.map(([path, share]) => `${path} ${Math.round(100 * share)} %`).join(', ')}`,
    )
  lines.push('', `  spent ${spent.trials} trials, ${spent.steps} steps, ${duration(3600 * spent.hours)} of devices`)
  if (saved.steps > 0) lines.push(`  saved ${savedText(report)}`)
  return lines
}

function standingText({ status, message, counts }: SweepReport): string {
  const parts = Object.entries(counts).map(([name, count]) => `${count} ${name}`)
  return [`${status}${message === '' ? '' : `: ${message}`}`, parts.join(', ')].filter((part) => part !== '').join(' · ')
}

function rowOf(point: RankedPoint, { diffs }: SweepReport): string[] {
  const changes = diffs.get(point.point) ?? []
  const words = point.rank === 1 ? bestText(point) : changes.map(changeText).join(', ')
  return [
    point.rank === null ? '–' : String(point.rank),
    String(point.point),
    point.value === null ? '–' : brief(point.value),
    spreadText(point),
    `${statusText(point)}${point.status === 'pruned' && point.step !== null ? ` at ${point.step}` : ''}${point.isNoise ? ' ≈ best' : ''}`,
    cut(words === '' ? 'the same settings' : words, 70),
  ]
}

function bestText({ values }: RankedPoint): string {
  return Object.entries(values)
    .map(([path, value]) => `${path} ${valueText(value)}`)
    .join(', ')
}

function statusText({ status, trials }: RankedPoint): string {
  const failed = trials.find((trial) => trial.class !== null)
  return status === 'failed' && failed ? `${failed.status} (${failed.class})` : status
}

function spreadText({ interval, standardError }: RankedPoint): string {
  if (interval !== null) return `± ${brief(interval)}`
  return standardError === null ? '' : `(± ${brief(standardError)})`
}

function changeText({ path, before, after, ratio }: Change): string {
  return `${path} ${valueText(before)} → ${valueText(after)}${ratio === undefined ? '' : ` ×${brief(ratio)}`}`
}

function costText(cheapest: RankedPoint, best: RankedPoint): string {
  if (cheapest.seconds === null || best.seconds === null || best.seconds === 0) return ''
  return `${Math.round((100 * cheapest.seconds) / best.seconds)} % of the best one's cost`
}

function savedText({ saved }: SweepReport): string {
  const what = [
    ...(saved.prefixes > 0 ? [`${saved.prefixes} times a stage before it`] : []),
    ...(saved.runs > 0 ? [`${saved.runs} runs`] : []),
  ].join(', ')
  return `${saved.steps} steps, ${duration(3600 * saved.hours)} of devices: ${what} not trained again`
}

/** Every sweep there is, in a table. */
export function sweepsTable(reports: readonly SweepReport[]): string[] {
  if (reports.length === 0) return ['no sweeps here: stagewright sweep FILE begins one']
  return table([
    ['sweep', 'stage', 'status', 'trials', 'best'],
    ...reports.map(({ id, stage, status, spent, ranking }) => [
      id,
      stage,
      status,
      String(spent.trials),
      ranking.best?.value == null ? '–' : brief(ranking.best.value),
    ]),
  ])
}

/** A report for an issue or a notebook. */
export function reportMarkdown(report: SweepReport): string[] {
  const { ranking, importance, spent, saved } = report
  const cell = (text: string) => text.replaceAll('|', '\\|')
  const rows = ranking.points.map((point) => `| ${rowOf(point, report).map(cell).join(' | ')} |`)
  const parts = Object.entries(importance.importance).sort(([, a], [, b]) => b - a)
  return [
    `## Sweep ${report.name}`,
    '',
    `${report.id}, stage \`${report.stage}\`: ${standingText(report)}`,
    '',
    '| rank | point | loss | ± | status | against the best |',
    '|---|---|---|---|---|---|',
    ...rows,
    '',
    ...(parts.length > 0
      ? ['| setting | importance |', '|---|---|', ...parts.map(([path, share]) => `| \`${path}\` | ${(100 * share).toFixed(1)} % |`), '']
      : []),
    ...(ranking.cheapest ? [`Cheapest within 1 %: point ${ranking.cheapest.point}.`] : []),
    `Spent ${spent.trials} trials, ${spent.steps} steps, ${duration(3600 * spent.hours)} of devices.`,
    ...(saved.steps > 0 ? [`Saved ${savedText(report)}.`] : []),
  ]
}

/** A row a trial. */
export function reportCsv({ ranking }: SweepReport): string[] {
  const paths = [...new Set(ranking.points.flatMap(({ values }) => Object.keys(values)))]
  const head = [
    'trial',
    'point',
    'rank',
    'seed',
    'status',
    'class',
    'run',
    'step',
    'loss',
    'standardError',
    'deviceSeconds',
    'steps',
    ...paths,
  ]
  const rows = ranking.points.flatMap((point) =>
    point.trials.map((trial) => [
      trial.number,
      point.point,
      point.rank,
      trial.seed,
      trial.status,
      trial.class,
      trial.run,
      trial.step,
      trial.value ?? trial.reports.at(-1)?.value,
      trial.standardError,
      trial.deviceSeconds,
      trial.steps,
      ...paths.map((path) => trial.values[path]),
    ]),
  )
  return [head, ...rows].map((row) => row.map(csvCell).join(','))
}

function csvCell(value: unknown): string {
  const text =
    value === undefined || value === null
      ? ''
      : typeof value === 'string' || typeof value === 'number'
        ? String(value)
        : JSON.stringify(value)
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
}

/** A report for a script. */
export function reportJson({ diffs, ranking, ...rest }: SweepReport) {
  const pointJson = (point: RankedPoint) => ({
    ...point,
    against: (diffs.get(point.point) ?? []).map(({ path, before, after, ratio, delta, impact }) => ({
      path,
      before,
      after,
      ratio,
      delta,
      impact,
    })),
  })
  return {
    ...rest,
    best: ranking.best ? pointJson(ranking.best) : null,
    cheapestWithinOnePercent: ranking.cheapest ? pointJson(ranking.cheapest) : null,
    points: ranking.points.map(pointJson),
  }
}
