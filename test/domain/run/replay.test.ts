import { describe, expect, test } from 'vitest'
import { compareReplay, surroundingsDiffer } from '../../../src/domain/run/replay.ts'

const points = (losses: readonly number[]) =>
  losses.map((loss, index) => ({ step: index + 1, ts: 0, attempt: 1, loss, learningRate: 1e-3, gradientNorm: loss * 2, secondsPerStep: 1 }))
const original = points([3, 2, 1.5, 1.25])

describe('a replay', () => {
  test('is identical only where every loss and gradient norm is, non-finite ones included', () => {
    expect(compareReplay(original, points([3, 2, 1.5, 1.25]), 'full')).toEqual({ verdict: 'identical', steps: 4 })
    expect(compareReplay(points([1, Number.NaN]), points([1, Number.NaN]), 'full')).toEqual({ verdict: 'identical', steps: 2 })
  })

  test('is within noise up to a thousandth in full precision, and says where it was farthest', () => {
    const close = points([3, 2.0004, 1.5001, 1.25])
    expect(compareReplay(original, close, 'full')).toMatchObject({ verdict: 'within-noise', at: 2 })
  })

  test('has diverged at the first step beyond that, or the first it lacks', () => {
    const far = points([3, 2, 1.51, 9])
    expect(compareReplay(original, far, 'full')).toMatchObject({ verdict: 'diverged', at: 3 })
    expect(compareReplay(original, far.slice(0, 3), 'half')).toMatchObject({
      verdict: 'diverged',
      at: 4,
      largest: Number.POSITIVE_INFINITY,
    })
    expect(compareReplay(original, points([3, Number.NaN, 1.5, 1.25]), 'half')).toMatchObject({ verdict: 'diverged', at: 2 })
  })
})

test('what differs between two machines is named', () => {
  const here = { host: 'a', device: 'cpu', torch: '2.13.0', threads: 2, worldSize: 1 }
  expect(surroundingsDiffer(here, here)).toEqual([])
  expect(surroundingsDiffer(here, { ...here, threads: 1, device: 'gpu' })).toEqual(['device cpu → gpu', 'threads 2 → 1'])
})
