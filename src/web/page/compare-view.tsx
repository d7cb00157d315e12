import { useEffect, useMemo, useState } from 'preact/hooks'
import type { RunDetails } from '../../runs/watch/details.ts'
import type { Axis, SeriesAnswer } from '../../runs/watch/series.ts'
import { axisText, Chart } from './chart.tsx'
import { CompareStages } from './compare-stages.tsx'
import { CurveOptions } from './curve-options.tsx'
import type { View } from './curves-view.tsx'
import { countNote, curveSummary, type Line } from './lines.ts'
import { SampleGrid, ScrubberBar, useScrubber } from './samples-view.tsx'
import { get } from './source.ts'
import { errorText, useClock } from './state.ts'
import { brief } from './words.ts'

const refreshMs = 3000
const pixels = 1000
const columns = ['loss', 'learningRate', 'gradientNorm'] as const
const titles = { loss: 'Training loss', learningRate: 'Learning rate', gradientNorm: 'Gradient norm' } as const

interface Compared {
  readonly id: string
  readonly details: RunDetails
  readonly answer: SeriesAnswer
}

/** Up to ten runs over one axis, what differs in their stages, and their samples side by side. */
export function CompareView({ ids }: { ids: readonly string[] }) {
  const [axis, setAxis] = useState<Axis>('step')
  const [view, setView] = useState<View>({ from: undefined, to: undefined })
  const [smoothing, setSmoothing] = useState(0.95)
  const [isLog, setLog] = useState(false)
  const { runs, error } = useCompared(ids, axis, view, smoothing)
  const range = rangeOf(runs, view)
  const charts = useMemo(() => columns.map((column) => ({ column, lines: linesOf(runs, column) })), [runs])
  return (
    <main>
      <h1>Compare {ids.length} runs</h1>
      <div class="bar">
        <label>
          over{' '}
          <select value={axis} onChange={({ currentTarget }) => setAxis(currentTarget.value as Axis)}>
            <option value="step">steps</option>
            <option value="samples">clips trained on</option>
            <option value="relative">time since the start</option>
          </select>
        </label>
        <CurveOptions smoothing={smoothing} onSmoothing={setSmoothing} isLog={isLog} onLog={setLog} />
        <button type="button" onClick={() => setView({ from: undefined, to: undefined })}>
          whole runs
        </button>
        {error ? <span role="alert">{error}</span> : null}
      </div>
      <RunLegend runs={runs} />
      <div class="beside">
        <div class="charts">
          {charts.map(({ column, lines }) => (
            <Chart
              key={column}
              title={titles[column]}
              lines={lines}
              axis={axis}
              hasLegend={false}
              from={range[0]}
              to={range[1]}
              isLog={isLog}
              summary={runs
                .map(
                  ({ id, answer }) =>
                    `${id}: ${curveSummary(answer.series.find((series) => series.column === column)?.curve, (x) => axisText(axis, x))}`,
                )
                .join(' ')}
              note={pointsNote(runs, column)}
              onZoom={(from, to) => setView({ from, to })}
            />
          ))}
        </div>
        <section>
          <h2>What differs in their stages</h2>
          <CompareStages ids={ids} names={ids.map((id) => runs.find((run) => run.id === id)?.details.summary.stage ?? id)} />
        </section>
      </div>
      <ComparedSamples runs={runs} />
    </main>
  )
}

function useCompared(ids: readonly string[], axis: Axis, { from, to }: View, smoothing: number) {
  const clock = useClock(refreshMs)
  const [state, setState] = useState<{ runs: readonly Compared[]; error: string | undefined }>({ runs: [], error: undefined })
  const key = ids.join(',')
  useEffect(() => {
    const leaving = new AbortController()
    const range = `${from === undefined ? '' : `&from=${from}`}${to === undefined ? '' : `&to=${to}`}`
    const read = async (id: string): Promise<Compared> => {
      const details = await get<RunDetails>(`/api/runs/${id}?axis=${axis}`, leaving.signal)
      const known = columns.filter((column) => details.columns.includes(column))
      const query = `axis=${axis}&columns=${known.join(',')}&width=${pixels}&smoothing=${smoothing}${range}`
      const none: SeriesAnswer = { axis, from: 0, to: 1, bounds: null, of: 0, series: [] }
      return { id, details, answer: known.length === 0 ? none : await get<SeriesAnswer>(`/api/runs/${id}/series?${query}`, leaving.signal) }
    }
    Promise.all(key.split(',').map(read)).then(
      (runs) => setState({ runs, error: undefined }),
      (cause: unknown) => {
        if (!leaving.signal.aborted) setState((before) => ({ ...before, error: errorText(cause) }))
      },
    )
    return () => leaving.abort()
  }, [key, axis, from, to, smoothing, clock])
  return state
}

function rangeOf(runs: readonly Compared[], { from, to }: View): [number, number] {
  const bounds = runs.flatMap(({ answer }) => answer.bounds ?? [])
  return [from ?? Math.min(...bounds, Number.MAX_VALUE), to ?? Math.max(...bounds, 0)]
}

function linesOf(runs: readonly Compared[], column: string): Line[] {
  return runs.flatMap(({ id, answer, details }, place) => {
    const series = answer.series.find((each) => each.column === column)
    if (!series) return []
    const colour = `--run-${(place % 10) + 1}`
    const smooth = column === 'learningRate' ? null : series.smooth
    const lines: Line[] = [{ label: id, ...(smooth ?? series.curve), colour }]
    if (smooth) lines.unshift({ label: `${id}, every point`, ...series.curve, colour, isFaint: true })
    const measured = details.heldOut.filter(({ at }) => at !== null)
    if (column === 'loss' && measured.length > 0) {
      lines.push({
        label: `${id}, held-out`,
        x: measured.map(({ at }) => at as number),
        y: measured.map(({ ema, raw }) => ema ?? raw),
        colour,
        isDashed: true,
        hasPoints: true,
      })
    }
    return lines
  })
}

/** How many points of all runs are in view, of how many. */
function pointsNote(runs: readonly Compared[], column: string): string {
  const points = runs.map(({ answer }) => answer.series.find((series) => series.column === column)?.curve.points ?? 0)
  const all = runs.reduce((sum, { answer }) => sum + answer.of, 0)
  return `${points.reduce((sum, count) => sum + count, 0).toLocaleString('en')} of ${all.toLocaleString('en')} points`
}

function RunLegend({ runs }: { runs: readonly Compared[] }) {
  return (
    <ul class="legend">
      {runs.map(({ id, answer, details: { summary } }, place) => (
        <li key={id}>
          <span class="swatch" style={{ background: `var(--run-${(place % 10) + 1})` }} /> <a href={`#/run/${id}`}>{summary.stage}</a>{' '}
          <span class="note">
            {id}, {summary.standing}, held-out {brief(summary.heldOutLoss)}, {countNote(answer.series[0]?.curve, answer.of)}
          </span>
        </li>
      ))}
    </ul>
  )
}

/** The samples of each run at the newest step at or before one, by prompt. */
function ComparedSamples({ runs }: { runs: readonly Compared[] }) {
  const scrubber = useScrubber()
  const steps = [...new Set(runs.flatMap(({ details }) => details.samples.map(({ step }) => step)))].sort((a, b) => a - b)
  const [place, setPlace] = useState<number | undefined>(undefined)
  const step = steps[place ?? steps.length - 1]
  if (step === undefined) return null
  const prompts = [...new Set(runs.flatMap(({ details }) => details.samples.map(({ prompt }) => prompt)))]
  return (
    <section>
      <h2>Samples up to step {step}</h2>
      <div class="bar">
        <label class="wide">
          step{' '}
          <input
            type="range"
            min="0"
            max={steps.length - 1}
            value={place ?? steps.length - 1}
            onInput={({ currentTarget }) => setPlace(Number(currentTarget.value))}
          />
        </label>
      </div>
      <ScrubberBar {...scrubber} />
      <SampleGrid
        label="Samples by prompt and run"
        prompts={prompts}
        columns={runs.map(({ id, details: { samples, summary } }) => ({
          key: id,
          title: `${summary.stage}, ${id}`,
          run: id,
          sampleOf: (prompt) => samples.findLast((each) => each.prompt === prompt && each.step <= step),
        }))}
        at={scrubber.at}
      />
    </section>
  )
}
