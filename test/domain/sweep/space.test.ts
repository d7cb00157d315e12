import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { readConstraint, readExpression } from '../../../src/domain/sweep/expression.ts'
import type { Axis } from '../../../src/domain/sweep/schema.ts'
import { gridPoints, gridValues, orderedAxes, outsideReason } from '../../../src/domain/sweep/space.ts'

const choice = (path: string, values: readonly unknown[], when: Axis['when'] = {}): Axis => ({ kind: 'choice', path, values, when })
type Range = Exclude<Axis, { kind: 'choice' }>
const range = (path: string, min: number, max: number, besides: Partial<Range> = {}): Range => ({
  kind: 'real',
  path,
  min,
  max,
  step: null,
  log: false,
  points: null,
  when: {},
  ...besides,
})

describe('a grid', () => {
  test('walks ranges by steps, by points and by factors, without the noise of the last digits', () => {
    expect(gridValues(range('a', 0.1, 0.5, { step: 0.1 }))).toEqual([0.1, 0.2, 0.3, 0.4, 0.5])
    expect(gridValues(range('a', 1e-4, 1e-1, { log: true, points: 4 }))).toEqual([1e-4, 1e-3, 1e-2, 1e-1])
    expect(gridValues({ ...range('a', 1, 4), kind: 'integer' })).toEqual([1, 2, 3, 4])
    expect(gridValues({ ...range('a', 1, 8, { log: true, points: 4 }), kind: 'integer' })).toEqual([1, 2, 4, 8])
    expect(() => gridValues(range('a', 0, 1))).toThrow('expected values, step or points of a for a grid')
  })

  test('has an axis only where its condition holds', () => {
    const axes = orderedAxes([choice('beta', [1, 2], { name: ['adamw'] }), choice('name', ['adamw', 'sgd'])])
    expect(gridPoints(axes)).toEqual([{ name: 'adamw', beta: 1 }, { name: 'adamw', beta: 2 }, { name: 'sgd' }])
  })

  test('refuses conditions on no axis and in a circle, and more points than anyone trains', () => {
    expect(() => orderedAxes([choice('a', [1], { b: [1] })])).toThrow('b, which is no axis')
    expect(() => orderedAxes([choice('a', [1], { b: [1] }), choice('b', [1], { a: [1] })])).toThrow('a circle')
    const many = Array.from({ length: 6 }, (_, place) => choice(`a${place}`, [...Array(10).keys()]))
    expect(() => gridPoints(many)).toThrow('at most 100000 points')
  })

  test('holds only points of its space, each once', () => {
    const axisOf = (path: string) =>
      fc.oneof(
        fc.uniqueArray(fc.integer(), { minLength: 1, maxLength: 4 }).map((values) => choice(path, values)),
        fc
          .tuple(fc.integer({ min: -50, max: 50 }), fc.integer({ min: 1, max: 5 }))
          .map(([min, more]) => ({ ...range(path, min, min + more), kind: 'integer' as const })),
      )
    fc.assert(
      fc.property(fc.tuple(axisOf('a'), axisOf('b'), axisOf('c')), (axes) => {
        const conditioned = axes.map((axis, place) => (place === 2 ? { ...axis, when: { a: gridValues(axes[0]).slice(0, 1) } } : axis))
        const points = gridPoints(conditioned)
        expect(new Set(points.map((point) => JSON.stringify(point))).size).toBe(points.length)
        for (const point of points) expect(outsideReason(conditioned, point)).toBeUndefined()
      }),
    )
  })

  test('tells what keeps a point out', () => {
    const axes = [range('rate', 0, 1, { step: 0.25 }), choice('name', ['a'])]
    expect(outsideReason(axes, { rate: 0.5, name: 'a' })).toBeUndefined()
    expect(outsideReason(axes, { rate: 0.3, name: 'a' })).toBe('rate = 0.3 lies outside its axis')
    expect(outsideReason(axes, { rate: 0.5 })).toBe('name has no value')
    expect(outsideReason(axes, { rate: 0.5, name: 'a', other: 1 })).toBe('other is no axis')
  })
})

describe('an expression', () => {
  const lookup = (name: string) => ({ 'batch.perDevice': 8, ranks: 2, text: 'x' })[name]

  test('binds as in school', () => {
    expect(readExpression('2 + 3 * (4 - 1) / -2').compute(lookup)).toBe(2 + (3 * 3) / -2)
    expect(readExpression('64 / batch.perDevice % 3 - 1e-1').compute(lookup)).toBeCloseTo(((64 / 8) % 3) - 0.1)
    expect(readConstraint('batch.perDevice * ranks == 16').holds(lookup)).toBe(true)
    expect(readConstraint('0.1 + 0.2 == 0.3').holds(lookup)).toBe(true)
    expect(readConstraint('ranks>=3').holds(lookup)).toBe(false)
  })

  test.each(['', '1 +', '(1', '1 2', 'a;b', '1 == 1', 'process.exit()', '2 ** 3', '"a"'])('is refused by name: %s', (text) => {
    expect(() => readExpression(text).compute(() => 1)).toThrow(/expected/)
  })

  test('refuses settings that are no numbers', () => {
    expect(() => readExpression('text + 1').compute(lookup)).toThrow('text + 1: expected text to be a number, got "x"')
    expect(() => readConstraint('1 + 1')).toThrow('expected one of ==')
  })

  test('computes what the language computes', () => {
    const term: fc.Arbitrary<string> = fc.letrec<{ sum: string; leaf: string }>((tie) => ({
      leaf: fc.integer({ min: 0, max: 99 }).map(String),
      sum: fc.oneof(
        { depthSize: 'small' },
        tie('leaf'),
        fc.tuple(tie('sum'), fc.constantFrom('+', '-', '*'), tie('sum')).map(([a, sign, b]) => `(${a} ${sign} ${b})`),
      ),
    })).sum
    fc.assert(
      fc.property(fc.tuple(term, fc.constantFrom('+', '-', '*'), term), ([a, sign, b]) => {
        const text = `${a} ${sign} ${b}`
        // biome-ignore lint/security/noGlobalEval: the text is made of digits and signs alone
        expect(readExpression(text).compute(() => undefined)).toBe(globalThis.eval(text))
      }),
    )
  })
})
