import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type Benchmark, figureOf, median, resultOf } from '../../scripts/bench/figure.ts'

const listed: Benchmark = { name: 'forward', what: 'ours against theirs', figure: 'ratio', unit: '×', goal: { at: 'most', value: 1 } }

test('the middle of an even number of rounds lies between two', () => {
  expect(median([4, 1, 3, 2])).toBe(2.5)
  expect(median([3, 1, 2])).toBe(2)
})

describe('a figure', () => {
  test('is the ratio, the difference or the value of medians', () => {
    const series = { ours: [2, 4, 90], reference: [1, 2, 1] }
    expect(figureOf('ratio', series).value).toBe(4)
    expect(figureOf('difference', series).value).toBe(3)
    expect(figureOf('paired-ratio', series).value).toBe(2)
    expect(figureOf('value', { ours: [2, 4, 90] })).toMatchObject({ value: 4, low: 2, high: 90 })
  })

  test('lies in its interval, which lies in the rounds, and comes out alike each time', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.double({ min: 0.1, max: 9, noNaN: true }), fc.double({ min: 0.1, max: 9, noNaN: true })), {
          minLength: 3,
          maxLength: 9,
        }),
        (rounds) => {
          const series = { ours: rounds.map(([ours]) => ours), reference: rounds.map(([, reference]) => reference) }
          const figure = figureOf('value', series)
          expect(figure.low).toBeLessThanOrEqual(figure.value)
          expect(figure.high).toBeGreaterThanOrEqual(figure.value)
          expect(figure.low).toBeGreaterThanOrEqual(Math.min(...series.ours))
          expect(figure.high).toBeLessThanOrEqual(Math.max(...series.ours))
          expect(figureOf('ratio', series)).toEqual(figureOf('ratio', series))
        },
      ),
      { numRuns: 30 },
    )
  })

  test('of sides with different rounds is refused', () => {
    expect(() => figureOf('ratio', { ours: [1, 2], reference: [1] })).toThrow('as many rounds')
  })
})

test('a goal is reached from its side, and one that was not measured is neither', () => {
  const series = { ours: [1.1], reference: [1] }
  expect(resultOf('models', listed, { name: 'forward', series }).reached).toBe(false)
  expect(resultOf('models', { ...listed, goal: { at: 'least', value: 1 } }, { name: 'forward', series }).reached).toBe(true)
  expect(resultOf('models', { ...listed, goal: null }, { name: 'forward', series }).reached).toBeNull()
  expect(resultOf('models', listed, { name: 'forward', skipped: 'no GPU here' })).toMatchObject({ reached: null, skipped: 'no GPU here' })
})
