import { useEffect, useRef } from 'preact/hooks'
import type { Axis, HeatMap } from '../../runs/watch/series.ts'
import { axisText } from './chart.tsx'
import { useAnswer } from './state.ts'
import { brief } from './words.ts'

const mostColumns = 200
/** Steps that a column of cells holds at least, so that most cells have a value. */
const stepsPerColumn = 8
const rowPixels = 18

/** Training loss by bin of diffusion time: one row a bin, dark where it is low. */
export function HeatMapView(props: { id: string; axis: Axis; range: string; points: number; version: number }) {
  const { id, axis, range, points, version } = props
  const columns = Math.min(mostColumns, Math.max(10, Math.floor(points / stepsPerColumn)))
  const { value } = useAnswer<HeatMap>(`/api/runs/${id}/heat?axis=${axis}&width=${columns}${range}`, version)
  const canvas = useRef<HTMLCanvasElement>(null)
  const scale = value ? scaleOf(value) : undefined
  useEffect(() => {
    if (canvas.current && value && scale) draw(canvas.current, value, scale)
  }, [value])
  if (!value || value.points === 0 || !scale) return null
  return (
    <figure class="chart">
      <figcaption>
        <strong>Loss by diffusion time</strong>{' '}
        <span class="note">
          {value.points.toLocaleString('en')} values, mean of each cell; {brief(scale.low)} to {brief(scale.high)}
        </span>
      </figcaption>
      <div class="heat" role="img" aria-label={`Loss by diffusion time. ${summaryOf(value, axis)}`}>
        <canvas ref={canvas} width={value.width} height={value.means.length * rowPixels} />
      </div>
      <p class="note">
        top: near the data; bottom: near pure noise. {axisText(axis, value.from)} to {axisText(axis, value.to)}
      </p>
    </figure>
  )
}

interface Scale {
  readonly low: number
  readonly high: number
}

/** Colours span what most cells hold: one spike must not make the rest look alike. */
function scaleOf({ means }: HeatMap): Scale | undefined {
  const values = means.flatMap((row) => row.filter((mean) => mean !== null)).sort((a, b) => a - b)
  const [low, high] = [values[Math.floor(values.length * 0.02)], values[Math.floor((values.length - 1) * 0.98)]]
  return low === undefined || high === undefined ? undefined : { low, high }
}

function draw(canvas: HTMLCanvasElement, { means }: HeatMap, { low, high }: Scale): void {
  const context = canvas.getContext('2d')
  if (!context) return
  context.clearRect(0, 0, canvas.width, canvas.height)
  means.forEach((row, bin) => {
    row.forEach((mean, column) => {
      if (mean === null) return
      const share = Math.min(1, Math.max(0, (mean - low) / (high - low || 1)))
      context.fillStyle = `hsl(${260 - 220 * share} 75% ${25 + 45 * share}%)`
      context.fillRect(column, bin * rowPixels, 1, rowPixels)
    })
  })
}

function summaryOf({ means }: HeatMap, axis: Axis): string {
  const told = means.flatMap((row, bin) => {
    const known = row.filter((mean) => mean !== null)
    const [first, last] = [known[0], known.at(-1)]
    return first === undefined || last === undefined ? [] : [`bin ${bin + 1}: ${brief(first)} to ${brief(last)}`]
  })
  return `From first to last ${axis === 'step' ? 'step' : 'place'} in view, ${told.join('; ')}.`
}
