import { describe, expect, test } from 'vitest'
import { passesOn, rankCounts } from '../../src/domain/ranks.ts'
import { defaultStage } from '../../src/domain/stage/fields.ts'

const stage = (batch: { perDevice: number; accumulate: number }, parallel: object) => ({
  ...defaultStage('a'),
  batch,
  parallel: { ...defaultStage('a').parallel, ...parallel },
})

describe('another number of ranks', () => {
  const two = stage({ perDevice: 2, accumulate: 3 }, { processes: 4 })

  test('keeps the clips of a step by more passes or fewer', () => {
    expect(passesOn({ nodes: 1, processes: 1 }, two)).toBe(12)
    expect(passesOn({ nodes: 1, processes: 4 }, two)).toBe(3)
    expect(passesOn({ nodes: 2, processes: 6 }, two)).toBe(1)
  })

  test('is refused where no whole number of passes does, with those that would', () => {
    expect(rankCounts(two)).toEqual([1, 2, 3, 4, 6, 12])
    expect(() => passesOn({ nodes: 1, processes: 5 }, two)).toThrow(expect.objectContaining({ code: 'GLOBAL_BATCH' }))
  })

  test('comes in groups that share a clip', () => {
    const shared = stage({ perDevice: 1, accumulate: 2 }, { processes: 4, sequence: 2 })
    expect(rankCounts(shared)).toEqual([2, 4, 8])
    expect(passesOn({ nodes: 1, processes: 2 }, shared)).toBe(4)
    expect(() => passesOn({ nodes: 1, processes: 3 }, shared)).toThrow(/expected a number that shares/)
  })
})
