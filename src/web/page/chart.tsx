import { useEffect, useRef, useState } from 'preact/hooks'
import uPlot from 'uplot'
import 'uplot/dist/uPlot.min.css'
import type { Mark } from '../../runs/watch/details.ts'
import type { Axis } from '../../runs/watch/series.ts'
import { aligned, type Line } from './lines.ts'
import { useWidth } from './state.ts'
import { brief, duration, moment } from './words.ts'

const height = 220
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
  /** What the chart shows, in words. */
  readonly summary: string
  /** How many points are drawn of how many there are. */
  readonly note: string
  readonly onZoom: (from: number, to: number) => void
}

/** Curves over one axis. Dragging over a stretch of them zooms into it. */
export function Chart(props: ChartProps) {
  const [measure, width] = useWidth()
  const target = useRef<HTMLDivElement>(null)
  const scheme = useScheme()
  useEffect(() => {
    if (!target.current || width === 0) return
    const plot = new uPlot(optionsOf(props, width), aligned(props.lines) as uPlot.AlignedData, target.current)
    return () => plot.destroy()
  }, [props.lines, props.from, props.to, props.isLog, props.marks, width, scheme])
  return (
    <figure class="chart" data-chart={props.title}>
      <figcaption>
        <strong>{props.title}</strong>
        {props.unit ? <span class="unit"> {props.unit}</span> : null} <span class="note">{props.note}</span>
      </figcaption>
      <div ref={measure} role="img" aria-label={`${props.title}. ${props.summary}`}>
        <div ref={target} aria-hidden="true" />
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

function optionsOf({ lines, axis, from, to, isLog, marks = [], onZoom }: ChartProps, width: number): uPlot.Options {
  const style = getComputedStyle(document.documentElement)
  const colour = (name: string) => style.getPropertyValue(name).trim()
  const look = { stroke: colour('--ink-soft'), grid: { stroke: colour('--line'), width: 1 }, ticks: { stroke: colour('--line'), width: 1 } }
  return {
    width,
    height,
    legend: { show: false },
    cursor: { drag: { x: true, y: false, setScale: false }, points: { show: false } },
    scales: { x: { time: false, range: [from, to === from ? from + 1 : to] }, y: { distr: isLog ? 3 : 1 } },
    axes: [
      { ...look, values: (_, ticks) => ticks.map((tick) => axisText(axis, tick)), space: 70 },
      { ...look, values: (_, ticks) => ticks.map((tick) => (tick === null ? '' : brief(tick))), size: 64 },
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
    ctx.setLineDash(kind === 'incident' ? [] : [3, 3])
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
