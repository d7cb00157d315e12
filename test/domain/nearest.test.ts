import fc from 'fast-check'
import { expect, test } from 'vitest'
import { editDistance, nearestName } from '../../src/domain/nearest.ts'

test.each([
  ['leaningRate', 'learningRate'],
  ['learning_rate', 'learningRate'],
  ['LEARNING-RATE', 'learningRate'],
  ['step', 'steps'],
  ['x', undefined],
  ['checkpointing', undefined],
])('%s means %s', (name, meant) => {
  expect(nearestName(name, ['learningRate', 'steps', 'seed'])).toBe(meant)
})

test('the distance is a metric', () => {
  const word = fc.string({ maxLength: 8 })
  fc.assert(
    fc.property(word, word, word, (a, b, c) => {
      expect(editDistance(a, a)).toBe(0)
      expect(editDistance(a, b)).toBe(editDistance(b, a))
      expect(editDistance(a, c)).toBeLessThanOrEqual(editDistance(a, b) + editDistance(b, c))
      expect(editDistance(a, b)).toBeLessThanOrEqual(Math.max(a.length, b.length))
    }),
  )
})
