import { useEffect, useRef, useState } from 'preact/hooks'
import uPlot from 'uplot'
import 'uplot/dist/uPlot.min.css'
import type { Mark } from '../../runs/watch/details.ts'
import type { Axis } from '../../runs/watch/series.ts'
import { ChartMarks } from './chart-marks.tsx'
import { aligned, type Line, readout } from './lines.ts'
import { useWidth } from './state.ts'
import { brief, duration, moment } from './words.ts'

const height = 230
/** Room above the curves for the signs of what happened. */
const signsHeight = 26
/** Charts whose cursors move together. */
const together = 'charts'
/** A click is no selection of a range. */
const leastSelection = 4

export interface ChartProps {
  readonly title: string
  readonly unit?: string
  readonly lines: readonly Line[]
  readonly axis: Axis
  readonly from: number
  readonly to: number
  readonly isLog?: boolean
  /** Whether the lines are told apart below it; they are by default. */
  readonly hasLegend?: boolean
  readonly marks?: readonly Mark[]
  /** How values are written at their axis. */
  readonly valueText?: (value: number) => string
  /** What the chart shows, in words. */
  readonly summary: string
  /** How many points are drawn of how many there are. */
  readonly note: string
  readonly onZoom: (from: number, to: number) => void
  /** Shows the stretch around what lies from one place to another. */
  readonly onShow?: (first: number, last: number) => void
}

/** Curves over one axis. Dragging over a stretch of them zooms into it. */
export function Chart(props: ChartProps) {
  const [measure, width] = useWidth()
  const target = useRef<HTMLDivElement>(null)
  const told = useRef<HTMLParagraphElement>(null)
  const [frame, setFrame] = useState({ left: 0, width: 0 })
  const scheme = useScheme()
  useEffect(() => {
    if (!target.current || width === 0) return
    const options = optionsOf(props, width, told)
    const ready = ({ over }: uPlot) => setFrame({ left: over.offsetLeft, width: over.offsetWidth })
    const hooks = { ...options.hooks, ready: [ready] }
    const plot = new uPlot({ ...options, hooks }, aligned(props.lines) as uPlot.AlignedData, target.current)
    return () => plot.destroy()
  }, [props.lines, props.from, props.to, props.isLog, props.marks, width, scheme])
  return (
    <figure class="chart" data-chart={props.title}>
      <figcaption>
        <strong>{props.title}</strong>
        {props.unit ? <span class="unit"> {props.unit}</span> : null} <span class="note">{props.note}</span>
      </figcaption>
      <p ref={told} class="readout" aria-hidden="true" />
      <div class="plot">
        <div ref={measure} role="img" aria-label={`${props.title}. ${props.summary}`}>
          <div ref={target} aria-hidden="true" />
        </div>
        {props.marks && props.onShow ? (
          <ChartMarks title={props.title} marks={props.marks} from={props.from} to={props.to} frame={frame} onShow={props.onShow} />
        ) : null}
      </div>
      {props.hasLegend === false ? null : <Legend lines={props.lines} />}
    </figure>
  )
}

function Legend({ lines }: { lines: readonly Line[] }) {
  if (lines.length < 2) return null
  return (
    <ul class="legend">
      {lines.map(({ label, colour, isFaint }) => (
        <li key={label}>
          <span class="swatch" style={{ background: `var(${colour})`, opacity: isFaint ? 0.45 : 1 }} /> {label}
        </li>
      ))}
    </ul>
  )
}

/** Changes with the reader's colour scheme: a canvas does not follow it by itself. */
function useScheme(): boolean {
  const query = matchMedia('(prefers-color-scheme: dark)')
  const [isDark, setDark] = useState(query.matches)
  useEffect(() => {
    const listener = () => setDark(query.matches)
    query.addEventListener('change', listener)
    return () => query.removeEventListener('change', listener)
  }, [])
  return isDark
}

function optionsOf(
  { lines, axis, from, to, isLog, marks = [], valueText = brief, onZoom }: ChartProps,
  width: number,
  told: { readonly current: HTMLElement | null },
): uPlot.Options {
  const style = getComputedStyle(document.documentElement)
  const colour = (name: string) => style.getPropertyValue(name).trim()
  const look = { stroke: colour('--ink-soft'), grid: { stroke: colour('--line'), width: 1 }, ticks: { stroke: colour('--line'), width: 1 } }
  return {
    width,
    height,
    legend: { show: false },
    padding: [marks.length > 0 ? signsHeight : null, null, null, null],
    cursor: {
      drag: { x: true, y: false, setScale: false },
      points: { show: false },
      y: false,
      // Only the place is shared: a stretch chosen in one chart is chosen once.
      sync: { key: together, scales: ['x', null], filters: { pub: (type) => type === 'mousemove' || type === 'mouseleave' } },
    },
    scales: { x: { time: false, range: [from, to === from ? from + 1 : to] }, y: { distr: isLog ? 3 : 1 } },
    axes: [
      { ...look, values: (_, ticks) => ticks.map((tick) => axisText(axis, tick)), space: 70, size: 28 },
      { ...look, values: (_, ticks) => ticks.map((tick) => (tick === null ? '' : valueText(tick))), size: 64 },
    ],
    series: [
      {},
      ...lines.map(({ label, colour: name, isFaint, isDashed, hasPoints }) => ({
        label,
        stroke: isFaint ? `color-mix(in srgb, ${colour(name)} 45%, transparent)` : colour(name),
        width: isFaint ? 1 : 1.75,
        ...(isDashed ? { dash: [4, 4] } : {}),
        points: { show: hasPoints ?? false, size: 6, fill: colour(name) },
      })),
    ],
    hooks: {
      draw: [(plot) => drawMarks(plot, marks, colour)],
      setCursor: [
        ({ cursor: { left = -1 }, posToVal }) => {
          if (told.current)
            told.current.textContent = left < 0 ? '' : readout(lines, posToVal(left, 'x'), (x) => axisText(axis, x), valueText)
        },
      ],
      setSelect: [
        (plot) => {
          const { left, width: selected } = plot.select
          if (selected < leastSelection) return
          onZoom(plot.posToVal(left, 'x'), plot.posToVal(left + selected, 'x'))
        },
      ],
    },
  }
}

function drawMarks(plot: uPlot, marks: readonly Mark[], colour: (name: string) => string): void {
  const { ctx, bbox } = plot
  ctx.save()
  ctx.lineWidth = 1
  for (const { at, kind } of marks) {
    if (at === null) continue
    const x = plot.valToPos(at, 'x', true)
    if (x < bbox.left || x > bbox.left + bbox.width) continue
    ctx.strokeStyle = colour(`--mark-${kind}`)
    ctx.globalAlpha = kind === 'checkpoint' ? 0.45 : 1
    ctx.setLineDash(kind === 'incident' || kind === 'rollback' ? [] : [3, 3])
    ctx.beginPath()
    ctx.moveTo(x, bbox.top)
    ctx.lineTo(x, bbox.top + bbox.height)
    ctx.stroke()
  }
  ctx.restore()
}

/** A place on an axis as it is written there. */
export function axisText(axis: Axis, value: number): string {
  if (axis === 'wall') return moment(value).replace(/:\d\d(?=\D*$)/, '')
  return axis === 'relative' ? duration(value) : value.toLocaleString('en')
}
