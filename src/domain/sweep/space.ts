import { sameValue } from '../diff/equality.ts'
import { UserError } from '../errors.ts'
import type { Axis, AxisCondition } from './schema.ts'

/** Values of some axes by their paths. */
export type Values = Readonly<Record<string, unknown>>

const mostGridPoints = 100_000
const tolerance = 1e-9

/** Axes in an order in which each comes after those its condition names. Raises UserError SWEEP_SPACE where there is none. */
export function orderedAxes(axes: readonly Axis[]): Axis[] {
  const paths = new Set(axes.map(({ path }) => path))
  const ordered: Axis[] = []
  let left = [...axes]
  while (left.length > 0) {
    const known = new Set(ordered.map(({ path }) => path))
    const ready = left.filter(({ when }) => Object.keys(when).every((path) => known.has(path)))
    if (ready.length === 0) throw unordered(left[0]?.path ?? '', Object.keys(left[0]?.when ?? {}), paths)
    ordered.push(...ready)
    left = left.filter((axis) => !ready.includes(axis))
  }
  return ordered
}

function unordered(path: string, needed: readonly string[], paths: ReadonlySet<string>): UserError {
  const missing = needed.find((name) => !paths.has(name))
  const got = missing === undefined ? 'a circle' : `${missing}, which is no axis`
  return new UserError('SWEEP_SPACE', `expected other axes in when of ${path}, got ${got}`, { hint: 'name axes of this sweep' })
}

/** Whether an axis exists at a point. */
export function isActive(when: AxisCondition, values: Values): boolean {
  return Object.entries(when).every(([path, allowed]) => path in values && allowed.some((value) => sameValue(value, values[path], 'text')))
}

/** The values of an axis in a grid. Raises UserError SWEEP_GRID for a range that does not say how many. */
export function gridValues(axis: Axis): readonly unknown[] {
  if (axis.kind === 'choice') return axis.values
  const { min, max, step, points, log, path } = axis
  if (points !== null) return spread(min, max, points, log, axis.kind === 'integer')
  const between = step ?? (axis.kind === 'integer' && !log ? 1 : null)
  if (between === null) {
    throw new UserError('SWEEP_GRID', `expected values, step or points of ${path} for a grid, got a range alone`, {
      hint: 'for example points: 4, or another sampler',
    })
  }
  const steps = Math.floor((max - min) / between + tolerance)
  if (steps >= mostGridPoints) throw tooLarge()
  return Array.from({ length: steps + 1 }, (_, place) => tidy(min + place * between))
}

function spread(min: number, max: number, points: number, log: boolean, whole: boolean): number[] {
  const at = (share: number) => (log ? min * (max / min) ** share : min + (max - min) * share)
  const values = Array.from({ length: points }, (_, place) => tidy(at(place / (points - 1))))
  return whole ? [...new Set(values.map(Math.round))] : values
}

/** Without the noise of the last digits: 0.30000000000000004 is 0.3. */
function tidy(value: number): number {
  return Number(value.toPrecision(12))
}

function tooLarge(): UserError {
  return new UserError('SWEEP_GRID', `expected at most ${mostGridPoints} points of a grid, got more`, { hint: 'use another sampler' })
}

/** Every point of a grid, the last axis changing fastest. Raises UserError SWEEP_GRID for one that is too large. */
export function gridPoints(axes: readonly Axis[]): Values[] {
  let points: Values[] = [{}]
  for (const axis of axes) {
    const values = gridValues(axis)
    points = points.flatMap((point) => (isActive(axis.when, point) ? values.map((value) => ({ ...point, [axis.path]: value })) : [point]))
    if (points.length > mostGridPoints) throw tooLarge()
  }
  return points
}

/** What keeps a point out of a space; undefined where nothing does. */
export function outsideReason(axes: readonly Axis[], values: Values): string | undefined {
  const known = new Set(axes.map(({ path }) => path))
  const stray = Object.keys(values).find((path) => !known.has(path))
  if (stray !== undefined) return `${stray} is no axis`
  for (const axis of axes) {
    const active = isActive(axis.when, values)
    if (active !== axis.path in values) return active ? `${axis.path} has no value` : `${axis.path} does not exist at this point`
    if (active && !isOn(axis, values[axis.path])) return `${axis.path} = ${JSON.stringify(values[axis.path])} lies outside its axis`
  }
  return undefined
}

/** Whether a value is one of an axis. */
export function isOn(axis: Axis, value: unknown): boolean {
  if (axis.kind === 'choice') return axis.values.some((choice) => sameValue(choice, value, 'text'))
  if (typeof value !== 'number' || value < axis.min || value > axis.max) return false
  if (axis.kind === 'integer' && !Number.isInteger(value)) return false
  const steps = (value - axis.min) / (axis.step ?? 1)
  return axis.step === null || Math.abs(steps - Math.round(steps)) < 1e-6
}
