import { useState } from 'preact/hooks'
import type { SweepView, TrialLine } from '../../runs/watch/sweep-view.ts'
import { Scroll } from './scroll.tsx'
import { useAnswer, useClock } from './state.ts'
import { brief, valueText } from './words.ts'

const refreshMs = 5000
const size = { width: 900, height: 260, edge: 34 }

/** A sweep: its trials, how their settings go with their loss, which settings matter, and why trials were given up. */
export function SweepPage({ id }: { id: string }) {
  const { value, error } = useAnswer<SweepView>(`/api/sweeps/${id}`, useClock(refreshMs))
  const [asks, setAsks] = useState(false)
  const { value: told, error: problem } = useAnswer<SweepView>(asks ? `/api/sweeps/${id}?importance=yes` : undefined)
  if (!value) return <main>{error ? <p role="alert">{error}</p> : <p>Reading {id}…</p>}</main>
  const ranked = value.trials.toSorted((a, b) => rankOf(a) - rankOf(b) || lossOf(a) - lossOf(b) || a.number - b.number)
  return (
    <main>
      <h1>Sweep {value.name}</h1>
      <p class="note">
        {id} · stage {value.stage} · {countsOf(value.trials)} · {value.end ?? 'goes on'}
      </p>
      <ParallelCoordinates sweep={value} />
      <h2>What matters</h2>
      {asks ? <ImportanceList importance={told?.importance} problem={problem} /> : null}
      {asks ? null : (
        <button type="button" onClick={() => setAsks(true)}>
          Compute the importance of each setting
        </button>
      )}
      <h2>Trials, the best first</h2>
      <Scroll label="Trials of the sweep">
        <table>
          <thead>
            <tr>
              <th>trial</th>
              <th>state</th>
              {value.axes.map(({ path }) => (
                <th key={path}>{path}</th>
              ))}
              <th>seed</th>
              <th>held-out</th>
              <th>at step</th>
              <th>why</th>
            </tr>
          </thead>
          <tbody>
            {ranked.map((trial) => (
              <tr key={trial.number}>
                <th scope="row">{trial.run ? <a href={`#/run/${trial.run}`}>{trial.number}</a> : trial.number}</th>
                <td>{trial.status}</td>
                {value.axes.map(({ path }) => (
                  <td key={path} class="number">
                    {valueText(trial.values[path])}
                  </td>
                ))}
                <td>{trial.seed ?? '–'}</td>
                <td class="number">
                  {brief(trial.value)}
                  {trial.standardError === null ? '' : ` ± ${brief(trial.standardError)}`}
                </td>
                <td class="number">{trial.step ?? '–'}</td>
                <td>{trial.reason}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
    </main>
  )
}

/** Trials measured to their end come first; those given up early have no loss to be compared with theirs. */
function rankOf({ status, value }: TrialLine): number {
  return value === null ? 2 : status === 'done' ? 0 : 1
}

function lossOf({ value }: TrialLine): number {
  return value ?? Number.POSITIVE_INFINITY
}

function countsOf(trials: readonly TrialLine[]): string {
  const states = [...new Set(trials.map(({ status }) => status))]
  return [`${trials.length} trials`, ...states.map((state) => `${trials.filter(({ status }) => status === state).length} ${state}`)].join(
    ', ',
  )
}

function ImportanceList({ importance, problem }: { importance: SweepView['importance'] | undefined; problem: string | undefined }) {
  if (problem) return <p role="alert">{problem}</p>
  if (importance === undefined) return <p>Computing…</p>
  if (importance === null) return <p>Too few trials have ended to tell.</p>
  const entries = Object.entries(importance).sort(([, a], [, b]) => b - a)
  return (
    <ul>
      {entries.map(([path, share]) => (
        <li key={path}>
          <meter min={0} max={1} value={share} aria-label={`importance of ${path}`} /> {path} {Math.round(share * 100)} %
        </li>
      ))}
    </ul>
  )
}

/** One vertical line for each setting and one for the loss, one bent line for each trial: dark where its loss is low. */
function ParallelCoordinates({ sweep: { axes, trials } }: { sweep: SweepView }) {
  const shown = trials.filter(({ value }) => value !== null)
  if (shown.length < 2) return null
  const scales: Scale[] = [
    ...axes.map(({ path, isLog }) => ({ name: path, ...scaleOf(shown, ({ values }) => values[path], isLog) })),
    { name: 'held-out loss', ...scaleOf(shown, ({ value }) => value, false) },
  ]
  const x = (column: number) => size.edge + (column * (size.width - 2 * size.edge)) / (scales.length - 1)
  const y = (share: number) => size.height - size.edge - share * (size.height - 2 * size.edge)
  const loss = scales.at(-1)?.placeOf
  // The better ones lie above the others.
  const ordered = shown.toSorted((a, b) => lossOf(b) - lossOf(a))
  return (
    <Scroll label="Parallel coordinates of the trials">
      <svg
        class="parallel"
        viewBox={`0 0 ${size.width} ${size.height}`}
        role="img"
        aria-label={`Settings and loss of ${shown.length} trials; the table below has their values`}
      >
        {ordered.map((trial) => (
          <polyline
            key={trial.number}
            class={trial.status === 'pruned' ? 'trial pruned' : 'trial'}
            style={{ '--strength': 1 - 0.75 * (loss?.(trial) ?? 0) }}
            points={scales.map(({ placeOf }, column) => `${x(column)},${y(placeOf(trial))}`).join(' ')}
          >
            <title>{`trial ${trial.number}, ${trial.status}: ${brief(trial.value)}`}</title>
          </polyline>
        ))}
        {scales.map((scale, column) => (
          <ScaleLine key={scale.name} scale={scale} x={x(column)} y={y} isFirst={column === 0} isLast={column === scales.length - 1} />
        ))}
      </svg>
      <p class="note">One line a trial, strong where its held-out loss is low; dashed: given up early, with the loss measured last.</p>
    </Scroll>
  )
}

interface Scale {
  readonly name: string
  /** From 0 to 1. */
  readonly placeOf: (trial: TrialLine) => number
  /** What is written at which place. */
  readonly ticks: readonly (readonly [number, string])[]
}

function ScaleLine(props: { scale: Scale; x: number; y: (share: number) => number; isFirst: boolean; isLast: boolean }) {
  const { scale, x, y, isFirst, isLast } = props
  return (
    <g>
      <line x1={x} x2={x} y1={y(0)} y2={y(1)} class="axis" />
      {scale.ticks.map(([share, text]) => (
        <text key={share} class="tick" x={isLast ? x - 6 : x + 6} y={y(share) + 4} text-anchor={isLast ? 'end' : 'start'}>
          {text}
        </text>
      ))}
      <text x={x} y={size.height - 6} text-anchor={isFirst ? 'start' : isLast ? 'end' : 'middle'}>
        {scale.name}
      </text>
    </g>
  )
}

/** Where trials lie on an axis, numbers by their size, anything else by its order; with its lowest and highest value, or all names. */
function scaleOf(trials: readonly TrialLine[], of: (trial: TrialLine) => unknown, isLog: boolean): Omit<Scale, 'name'> {
  const values = trials.map(of)
  if (values.every((value) => typeof value === 'number')) {
    const scaled = (value: unknown) => (isLog ? Math.log(Number(value)) : Number(value))
    const [low, high] = [Math.min(...values), Math.max(...values)]
    const span = scaled(high) - scaled(low) || 1
    const ends = [[0, brief(low)] as const, [1, brief(high)] as const]
    return { placeOf: (trial) => (scaled(of(trial)) - scaled(low)) / span, ticks: low === high ? ends.slice(0, 1) : ends }
  }
  const names = [...new Set(values.map(valueText))].sort()
  const placeOf = (name: string) => names.indexOf(name) / Math.max(1, names.length - 1)
  return { placeOf: (trial) => placeOf(valueText(of(trial))), ticks: names.slice(0, 8).map((name) => [placeOf(name), name]) }
}
