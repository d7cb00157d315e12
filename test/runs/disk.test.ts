import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { defaultStage } from '../../src/domain/stage/fields.ts'
import { diskPlan } from '../../src/runs/disk.ts'

const parameters = { total: 100, phases: [{ trainable: 10 }, { trainable: 50 }] }

function planned(checkpoint: object, steps: number, averaged: boolean) {
  const stage = defaultStage('a')
  const changed = { ...stage, steps, ema: { ...stage.ema, enabled: averaged }, checkpoint: { ...stage.checkpoint, ...checkpoint } }
  return diskPlan(changed, parameters, join(tmpdir(), 'a folder', 'that is not there yet'))
}

test('a checkpoint holds weights, averages and the moments of the widest phase', () => {
  expect(planned({}, 10, true).checkpointBytes).toBe(4 * (200 + 2 * 50))
  expect(planned({}, 10, false).checkpointBytes).toBe(4 * (100 + 2 * 50))
})

test('there is one more than are kept while it is written, and never more than are made', () => {
  expect(planned({ everySteps: 1, keepLast: 2, keepBest: 1 }, 100, true)).toMatchObject({ checkpoints: 4, bytes: 4 * 1200 })
  expect(planned({ everySteps: 50, keepLast: 5, keepBest: 1 }, 100, true).checkpoints).toBe(2)
  expect(planned({ everySteps: 10, keepLast: null, keepBest: 0 }, 100, true).checkpoints).toBe(10)
  expect(planned({}, 10, true).freeBytes).toBeGreaterThan(0)
})

test('those that are kept for good are counted', () => {
  expect(planned({ everySteps: 1, keepLast: 2, keepBest: 1, keepEverySteps: 20, keepEnds: true }, 100, true).checkpoints).toBe(9)
})
