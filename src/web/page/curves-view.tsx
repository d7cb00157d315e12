import { useMemo, useState } from 'preact/hooks'
import type { Mark, RunDetails } from '../../runs/watch/details.ts'
import type { Axis, Series, SeriesAnswer } from '../../runs/watch/series.ts'
import { axisText, Chart } from './chart.tsx'
import { CurveOptions } from './curve-options.tsx'
import { HeatMapView } from './heat-map.tsx'
import { countNote, curveSummary, type Line } from './lines.ts'
import { signOf } from './marks.ts'
import { useAnswer } from './state.ts'
import { columnWords } from './words.ts'

const pixels = 1200
const mainColumns = ['loss', 'learningRate', 'gradientNorm', 'secondsPerStep', 'extra.clipsPerSecond', 'memoryBytes']
/** Measurements that differ from step to step by chance; of the others a mean would tell less than the values. */
const noisy = new Set(['loss', 'gradientNorm', 'secondsPerStep', 'extra.clipsPerSecond'])
const axisNames: Record<Axis, string> = {
  step: 'steps',
  samples: 'clips trained on',
  wall: 'time of day',
  relative: 'time since the start',
}

export interface View {
  readonly from: number | undefined
  readonly to: number | undefined
}
const whole: View = { from: undefined, to: undefined }

/** The curves of a run over one axis; all of them show the same stretch. */
export function CurvesView({ id, details: atSteps, version }: { id: string; details: RunDetails; version: number }) {
  const [axis, setAxis] = useState<Axis>('step')
  const [view, setView] = useState<View>(whole)
  const [smoothing, setSmoothing] = useState(0.95)
  const [isLog, setLog] = useState(false)
  const [showsMore, setShowsMore] = useState(false)
  const { value: onAxis } = useAnswer<RunDetails>(axis === 'step' ? undefined : `/api/runs/${id}?axis=${axis}`, version)
  const details = axis === 'step' ? atSteps : (onAxis ?? atSteps)
  const more = details.columns.filter((name) => /^(extra|split)\./.test(name) && !mainColumns.includes(name))
  const columns = [...mainColumns, ...(showsMore ? more : [])].filter((name) => details.columns.includes(name))
  const range = rangeQuery(view)
  const path =
    columns.length === 0
      ? undefined
      : `/api/runs/${id}/series?axis=${axis}&columns=${columns.join(',')}&width=${pixels}&smoothing=${smoothing}${range}`
  const { value: answer, error } = useAnswer<SeriesAnswer>(path, version)
  const zoom = (from: number, to: number) => setView({ from, to })
  const charts = useMemo(
    () => (answer?.axis === axis ? answer.series.map((series) => ({ series, lines: linesOf(series, details) })) : []),
    [answer, details, axis],
  )
  if (columns.length === 0) return <p>No step has been logged yet.</p>
  return (
    <>
      <div class="bar">
        <label>
          over{' '}
          <select
            value={axis}
            onChange={({ currentTarget }) => {
              setAxis(currentTarget.value as Axis)
              setView(whole)
            }}
          >
            {Object.entries(axisNames).map(([value, name]) => (
              <option key={value} value={value}>
                {name}
              </option>
            ))}
          </select>
        </label>
        <CurveOptions smoothing={smoothing} onSmoothing={setSmoothing} isLog={isLog} onLog={setLog} />
        {more.length > 0 ? (
          <label>
            <input type="checkbox" checked={showsMore} onChange={() => setShowsMore(!showsMore)} /> all measurements
          </label>
        ) : null}
        {answer ? <ZoomButtons answer={answer} view={view} onView={setView} /> : null}
        {error ? <span role="alert">{error}</span> : null}
      </div>
      <div class="charts">
        {charts.map(({ series, lines }) => (
          <Chart
            key={series.column}
            {...columnWords(series.column)}
            lines={lines}
            axis={axis}
            from={answer?.from ?? 0}
            to={answer?.to ?? 1}
            isLog={isLog}
            marks={details.marks}
            summary={curveSummary(series.curve, (x) => axisText(axis, x))}
            note={countNote(series.curve, answer?.of ?? 0)}
            onZoom={zoom}
            onShow={(first, last) => answer && zoom(...around(first, last, answer))}
          />
        ))}
        <HeatMapView id={id} axis={axis} range={range} points={charts[0]?.series.curve.points ?? 0} version={version} />
      </div>
      <MarkList marks={details.marks} onChoose={(at) => answer && zoom(...around(at, at, answer))} />
    </>
  )
}

/** A stretch with marks in its middle; that around one mark is a hundredth as long as the run. */
function around(first: number, last: number, { bounds }: SeriesAnswer): [number, number] {
  const [low, high] = bounds ?? [0, 1]
  const edge = first === last ? Math.max(10, Math.ceil((high - low) / 200)) : (last - first) * 0.1
  return [Math.max(low, first - edge), Math.min(high, last + edge)]
}

function rangeQuery({ from, to }: View): string {
  return `${from === undefined ? '' : `&from=${from}`}${to === undefined ? '' : `&to=${to}`}`
}

function linesOf({ column, curve, smooth: smoothed, superseded }: Series, details: RunDetails): Line[] {
  const lines: Line[] = []
  const smooth = noisy.has(column) ? smoothed : null
  if (superseded) lines.push({ label: 'done again later', ...superseded, colour: '--ink-faint', isFaint: true })
  lines.push({ label: smooth ? 'every point' : 'value', ...curve, colour: '--line-1', isFaint: smooth !== null })
  if (smooth) lines.push({ label: 'smoothed', ...smooth, colour: '--line-1' })
  if (column !== 'loss') return lines
  const measured = details.heldOut.filter(({ at }) => at !== null)
  const x = measured.map(({ at }) => at as number)
  if (measured.length === 0) return lines
  // The raw ones are drawn last and dashed: where both are the same, both are seen.
  if (measured.some(({ ema }) => ema !== null)) {
    lines.push({ label: 'held-out, averaged weights', x, y: measured.map(({ ema }) => ema), colour: '--line-3', hasPoints: true })
  }
  lines.push({ label: 'held-out, raw weights', x, y: measured.map(({ raw }) => raw), colour: '--line-2', isDashed: true })
  return lines
}

function ZoomButtons({ answer, view, onView }: { answer: SeriesAnswer; view: View; onView: (view: View) => void }) {
  const { from, to, bounds } = answer
  const [low, high] = bounds ?? [0, 1]
  const span = to - from
  const show = (begin: number, end: number) => onView({ from: Math.max(low, begin), to: Math.min(high, end) })
  return (
    <fieldset class="group">
      <legend class="hidden">Part in view</legend>
      <button type="button" onClick={() => show(from + span / 4, to - span / 4)} aria-label="Zoom in">
        +
      </button>
      <button type="button" onClick={() => show(from - span / 2, to + span / 2)} aria-label="Zoom out">
        −
      </button>
      <button type="button" onClick={() => show(from - span / 2, to - span / 2)} aria-label="Earlier">
        ←
      </button>
      <button type="button" onClick={() => show(from + span / 2, to + span / 2)} aria-label="Later">
        →
      </button>
      <button type="button" disabled={view.from === undefined && view.to === undefined} onClick={() => onView(whole)}>
        whole run
      </button>
    </fieldset>
  )
}

function MarkList({ marks, onChoose }: { marks: readonly Mark[]; onChoose: (at: number) => void }) {
  if (marks.length === 0) return null
  const newest = marks.slice(-100).reverse()
  return (
    <section>
      <h2>What happened</h2>
      {marks.length > newest.length ? (
        <p class="note">
          the newest {newest.length} of {marks.length}
        </p>
      ) : null}
      <ol class="marks">
        {newest.map((mark, place) => (
          <li key={place}>
            <span class={`word ${mark.kind}`}>
              <span aria-hidden="true">{signOf(mark.kind).sign}</span> {signOf(mark.kind).word}
            </span>{' '}
            <button type="button" class="plain" disabled={mark.at === null} onClick={() => mark.at !== null && onChoose(mark.at)}>
              step {mark.step.toLocaleString('en')}
            </button>{' '}
            {mark.text}
          </li>
        ))}
      </ol>
    </section>
  )
}
