import type { Waiting } from '../domain/run/state.ts'

const bars = '▁▂▃▄▅▆▇█'

/** The course of some values as a line of blocks, lowest at the bottom; not finite ones are gaps. */
export function sparkline(values: readonly number[], width: number): string {
  if (values.length === 0) return ''
  const cells = Math.min(width, values.length)
  const means = Array.from({ length: cells }, (_, cell) => {
    const part = values
      .slice(Math.floor((cell * values.length) / cells), Math.floor(((cell + 1) * values.length) / cells))
      .filter(Number.isFinite)
    return part.reduce((sum, value) => sum + value, 0) / part.length
  })
  const finite = means.filter(Number.isFinite)
  const low = Math.min(...finite)
  const span = Math.max(...finite) - low || 1
  return means.map((value) => (Number.isFinite(value) ? bars[Math.min(7, Math.floor(((value - low) / span) * 8))] : ' ')).join('')
}

/** Seconds as people say them: `42 s`, `3 min 20 s`, `5 h 12 min`. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return '–'
  const whole = Math.max(0, Math.round(seconds))
  if (whole < 60) return `${whole} s`
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`
}

/** A number with few digits: `0.0123`, `12.3`, `1.2e-5`. */
export function brief(value: number | undefined): string {
  if (value === undefined) return '–'
  if (!Number.isFinite(value)) return String(value)
  const size = Math.abs(value)
  return size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(2).replace(/\.?0+e/, 'e') : String(Number(value.toPrecision(4)))
}

/** What a job in a cluster's queue waits for. */
export function waitingText({ why, eligibleAt, restarts }: Pick<Waiting, 'why' | 'eligibleAt' | 'restarts'>): string {
  const when = eligibleAt === null ? '' : `, eligible at ${new Date(eligibleAt * 1000).toISOString().slice(11, 19)} UTC`
  return `queued${restarts > 0 ? ' again' : ''}${why === 'None' ? '' : ` (${why})`}${when}`
}
