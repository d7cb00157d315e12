/* How numbers, times and states are written. */

import { isLive, type Standing } from '../../runs/watch/summary.ts'

/** A number with few digits: `0.0123`, `12.3`, `1.2e-5`. */
export function brief(value: number | null | undefined): string {
  if (value === null || value === undefined) return '–'
  if (!Number.isFinite(value)) return String(value)
  const size = Math.abs(value)
  if (size !== 0 && (size < 1e-3 || size >= 1e6))
    return value
      .toExponential(2)
      .replace(/\.?0+e/, 'e')
      .replace('e+', 'e')
  return value.toLocaleString('en', { maximumSignificantDigits: 4 })
}

/** Bytes as people say them: `512 MiB`, `71.3 GiB`. */
function bytes(value: number): string {
  const inMiB = value / 2 ** 20
  return Math.abs(inMiB) < 1024 ? `${Number(inMiB.toPrecision(4))} MiB` : `${Number((inMiB / 1024).toPrecision(4))} GiB`
}

/** How many of something, large numbers in short: `9,360`, `2.23 M`, `2.7 B`. */
export function howMany(value: number): string {
  const [unit, name] = value >= 1e9 ? [1e9, ' B'] : value >= 1e6 ? [1e6, ' M'] : [1, '']
  return unit === 1 ? value.toLocaleString('en') : `${Number((value / unit).toPrecision(3))}${name}`
}

/** Seconds as people say them: `42 s`, `3 min`, `5 h 12 min`. */
export function duration(seconds: number | null): string {
  if (seconds === null || !Number.isFinite(seconds)) return '–'
  const whole = Math.max(0, Math.round(seconds))
  if (whole < 60) return `${whole} s`
  if (whole < 3600) return `${Math.floor(whole / 60)} min`
  if (whole < 86_400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`
  return `${Math.floor(whole / 86_400)} d ${Math.floor((whole % 86_400) / 3600)} h`
}

/** A time in seconds since 1970, as the reader's clock says it. */
export function moment(seconds: number): string {
  return new Date(seconds * 1000).toLocaleString(undefined, { dateStyle: 'short', timeStyle: 'medium' })
}

/** How a run's state is to be looked at. */
export function toneOf(standing: Standing): 'live' | 'good' | 'calm' | 'bad' {
  if (standing === 'waiting') return 'bad'
  if (isLive(standing)) return 'live'
  if (standing === 'completed' || standing === 'plateau' || standing === 'data-exhausted') return 'good'
  return standing === 'new' || standing === 'stopped' || standing === 'paused' ? 'calm' : 'bad'
}

/** Any value of a setting in one line. */
export function valueText(value: unknown): string {
  if (value === null || value === undefined) return '–'
  if (typeof value === 'number') return brief(value)
  return typeof value === 'string' ? value : JSON.stringify(value)
}

/** What a column is called and measured in. */
export function columnWords(column: string): { title: string; unit: string; valueText?: (value: number) => string } {
  const known: Record<string, [string, string]> = {
    loss: ['Training loss', ''],
    learningRate: ['Learning rate', ''],
    gradientNorm: ['Gradient norm', ''],
    secondsPerStep: ['Time per step', 's'],
    'extra.clipsPerSecond': ['Throughput', 'clips/s'],
    memoryBytes: ['Memory', ''],
    clips: ['Clips per step', ''],
    tokens: ['Tokens per step', ''],
  }
  const [title, unit] = known[column] ?? [
    column.replace(/^extra\./, '').replace(/^split\./, 'Time in '),
    column.startsWith('split.') ? 's' : '',
  ]
  return { title, unit, ...(column === 'memoryBytes' ? { valueText: bytes } : {}) }
}
