import { useState } from 'preact/hooks'
import type { SweepView, TrialLine } from '../../runs/watch/sweep-view.ts'
import { Scroll } from './scroll.tsx'
import { useAnswer, useClock } from './state.ts'
import { brief, valueText } from './words.ts'

const refreshMs = 5000
const size = { width: 900, height: 260, edge: 30 }

/** A sweep: its trials, how their settings go with their loss, which settings matter, and why trials were given up. */
export function SweepPage({ id }: { id: string }) {
  const { value, error } = useAnswer<SweepView>(`/api/sweeps/${id}`, useClock(refreshMs))
  const [asks, setAsks] = useState(false)
  const { value: told, error: problem } = useAnswer<SweepView>(asks ? `/api/sweeps/${id}?importance=yes` : undefined)
  if (!value) return <main>{error ? <p role="alert">{error}</p> : <p>Reading {id}…</p>}</main>
  const ranked = value.trials.toSorted((a, b) => (a.value ?? Number.POSITIVE_INFINITY) - (b.value ?? Number.POSITIVE_INFINITY))
  return (
    <main>
      <h1>Sweep {value.name}</h1>
      <p class="note">
        {id} · stage {value.stage} · {value.trials.length} trials · {value.end ?? 'goes on'}
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
  const scales = [
    ...axes.map(({ path, isLog }) => ({ name: path, place: placesOf(shown, ({ values }) => values[path], isLog) })),
    { name: 'held-out loss', place: placesOf(shown, ({ value }) => value, false) },
  ]
  const x = (column: number) => size.edge + (column * (size.width - 2 * size.edge)) / (scales.length - 1)
  const y = (share: number) => size.height - size.edge - share * (size.height - 2 * size.edge)
  const loss = scales.at(-1)?.place
  return (
    <svg
      class="parallel"
      viewBox={`0 0 ${size.width} ${size.height}`}
      role="img"
      aria-label={`Settings and loss of ${shown.length} trials; the table below has their values`}
    >
      {scales.map(({ name }, column) => (
        <g key={name}>
          <line x1={x(column)} x2={x(column)} y1={y(0)} y2={y(1)} class="axis" />
          <text x={x(column)} y={size.height - 6} text-anchor={column === 0 ? 'start' : column === scales.length - 1 ? 'end' : 'middle'}>
            {name}
          </text>
        </g>
      ))}
      {shown.map((trial) => (
        <polyline
          key={trial.number}
          class={trial.status === 'pruned' ? 'trial pruned' : 'trial'}
          style={{ opacity: 1 - 0.8 * (loss?.(trial) ?? 0) }}
          points={scales.map(({ place }, column) => `${x(column)},${y(place(trial))}`).join(' ')}
        />
      ))}
    </svg>
  )
}

/** Where a trial lies on an axis, from 0 to 1: numbers by their size, anything else by its order. */
function placesOf(trials: readonly TrialLine[], of: (trial: TrialLine) => unknown, isLog: boolean): (trial: TrialLine) => number {
  const values = trials.map(of)
  if (values.every((value) => typeof value === 'number')) {
    const scaled = (value: unknown) => (isLog ? Math.log(Number(value)) : Number(value))
    const [low, high] = [Math.min(...values.map(scaled)), Math.max(...values.map(scaled))]
    return (trial) => (scaled(of(trial)) - low) / (high - low || 1)
  }
  const names = [...new Set(values.map((value) => JSON.stringify(value)))].sort()
  return (trial) => names.indexOf(JSON.stringify(of(trial))) / Math.max(1, names.length - 1)
}
