import fc from 'fast-check'
import { expect, test } from 'vitest'
import { MetricColumns, mostColumns } from '../../../src/domain/metrics/columns.ts'
import type { TrainerEvent } from '../../../src/domain/protocol.ts'
import { RunFold } from '../../../src/domain/run/state.ts'

const line = (step: number, more = {}) => ({ step, ts: step, attempt: 1, loss: step, clips: 2, ...more })

test('rows that count are those the fold keeps, wherever the run went back', () => {
  const moves = fc.array(fc.oneof(fc.integer({ min: 1, max: 12 }), fc.record({ backTo: fc.integer({ min: 0, max: 12 }) })), {
    maxLength: 60,
  })
  fc.assert(
    fc.property(moves, (all) => {
      const [columns, fold] = [new MetricColumns(), new RunFold()]
      for (const move of all) {
        if (typeof move === 'number') {
          columns.add(line(move))
          const event = {
            seq: 0,
            ts: 0,
            attempt: 1,
            event: 'step',
            step: move,
            loss: 1,
            learningRate: 1,
            secondsPerStep: 1,
          } as TrainerEvent
          fold.add(1, event)
        } else {
          columns.rewind(move.backTo)
          fold.add(1, { seq: 0, ts: 0, attempt: 1, event: 'started', step: move.backTo, steps: 12 })
        }
      }
      const steps = columns.column('step') ?? []
      expect([...columns.kept].map((row) => steps[row])).toEqual(fold.state().points.map(({ step }) => step))
      expect([...columns.superseded].filter((mark) => mark === 0)).toHaveLength(columns.kept.length)
    }),
  )
})

test('samples count clips over steps that were not logged, and begin again where the run went back', () => {
  const columns = new MetricColumns()
  for (const step of [10, 20, 15]) columns.add(line(step))
  expect([...(columns.column('samples') ?? [])]).toEqual([20, 40, 30])
})

test('a column that comes late is empty before, and no journal makes more of them than the limit', () => {
  const columns = new MetricColumns()
  columns.add(line(1))
  columns.add(line(2, { split: { data: 0.5 }, lossByBin: [null, 3], extra: null }))
  expect(columns.column('split.data')).toEqual(Float64Array.of(Number.NaN, 0.5))
  expect(columns.column('bin.1')).toEqual(Float64Array.of(Number.NaN, 3))
  for (let step = 3; step < 400; step += 1) columns.add(line(step, { extra: { [`value ${step}`]: 1 } }))
  expect(columns.names).toHaveLength(mostColumns)
  expect(columns.rows).toBe(399)
})
