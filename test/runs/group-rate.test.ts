import { expect, test } from 'vitest'
import { foldRun } from '../../src/domain/run/state.ts'
import { stageSchema } from '../../src/domain/stage/schema.ts'
import { groupRate } from '../../src/runs/group-rate.ts'
import type { Run } from '../../src/store/runs.ts'

const run = { stage: stageSchema.parse({ name: 'a', learningRate: 1e-4, learningRateRatios: { norms: 2 } }) } as Run
const changed = foldRun(
  [
    {
      seq: 0,
      ts: 0,
      attempt: 1,
      event: 'command',
      id: 'c',
      name: 'set',
      status: 'applied',
      step: 3,
      path: 'learningRate',
      effective: 5e-5,
    },
  ],
  [],
)

test('a group is given a factor on the rate it has, or a rate, and the others keep theirs', () => {
  const value = (group: string, text: string) => groupRate(run, changed, group, text).value
  expect(value('norms', '*0.5')).toEqual({ norms: 1 })
  expect(value('blocks[0:2]', '*0.1')).toEqual({ norms: 2, 'blocks[0:2]': 0.1 })
  expect(value('norms', '5e-6')).toEqual({ norms: 0.1 })
  expect(() => value('norms', '*fast')).toThrow('expected a rate or a factor, got *fast')
  expect(() => value('norms', '')).toThrow('expected a rate or a factor')
})
