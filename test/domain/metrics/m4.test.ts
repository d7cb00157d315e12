import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { curveOf, smoothed } from '../../../src/domain/metrics/m4.ts'

const values = fc.array(fc.oneof(fc.double({ noNaN: true, min: -1e6, max: 1e6 }), fc.constant(Number.NaN)), {
  minLength: 1,
  maxLength: 400,
})
const xOf = (y: readonly number[]) => Float64Array.from(y, (_, place) => place)

/** Lowest and highest value a line covers in each column of pixels. */
function columnsOf(x: readonly number[], y: readonly number[], view: { from: number; to: number; width: number }) {
  const found = new Map<number, [number, number]>()
  x.forEach((at, place) => {
    const value = y[place] as number
    if (at < view.from || at > view.to || !Number.isFinite(value)) return
    const column = columnOf(at, view)
    const [low, high] = found.get(column) ?? [value, value]
    found.set(column, [Math.min(low, value), Math.max(high, value)])
  })
  return Object.fromEntries(found)
}

describe('a curve for a view', () => {
  test('covers in every column of pixels what all its points cover', () => {
    fc.assert(
      fc.property(values, fc.integer({ min: 1, max: 40 }), fc.nat(399), fc.nat(399), (y, width, a, b) => {
        const view = { from: Math.min(a, b), to: Math.max(a, b), width }
        const x = xOf(y)
        const curve = curveOf(x, Float64Array.from(y), undefined, view)
        expect(columnsOf(curve.x, curve.y, view)).toEqual(columnsOf([...x], y, view))
        expect(curve.x).toEqual(curve.x.toSorted((one, other) => one - other))
        const seen = y.filter((_, place) => place >= view.from && place <= view.to)
        expect(curve.points).toBe(seen.filter(Number.isFinite).length)
        expect(curve.nonFinite).toBe(seen.length - curve.points)
      }),
    )
  })

  test('keeps one spike among a million points, and tells every point once few are in view', () => {
    const y = new Float64Array(1_000_000).fill(1)
    y[777_777] = 50
    const x = Float64Array.from(y, (_, place) => place)
    const whole = curveOf(x, y, undefined, { from: 0, to: 999_999, width: 300 })
    expect(Math.max(...whole.y)).toBe(50)
    expect(whole).toMatchObject({ points: 1_000_000, isExact: false })
    const near = curveOf(x, y, undefined, { from: 777_700, to: 777_900, width: 300 })
    expect(near).toMatchObject({ points: 201, isExact: true })
    expect(near.x).toEqual(Array.from({ length: 203 }, (_, place) => 777_699 + place))
  })

  test('takes only the rows it is told of', () => {
    const curve = curveOf(xOf([5, 6, 7]), Float64Array.of(5, 6, 7), Uint32Array.of(0, 2), { from: 0, to: 2, width: 10 })
    expect(curve).toMatchObject({ x: [0, 2], y: [5, 7], points: 2 })
  })
})

test('smoothing begins at the first value and passes over what is no number', () => {
  const means = smoothed(Float64Array.of(4, Number.NaN, 4, 8), Uint32Array.of(0, 1, 2, 3), 0.5)
  expect(means[0]).toBe(4)
  expect(means[1]).toBeNaN()
  expect(means[2]).toBeCloseTo(4)
  expect(means[3]).toBeGreaterThan(5)
})

/** The column of pixels that a place lies in: the first whose right edge is beyond it. */
function columnOf(at: number, { from, to, width }: { from: number; to: number; width: number }): number {
  for (let column = 1; column < width; column += 1) if (at < from + ((to - from) * column) / width) return column - 1
  return width - 1
}
