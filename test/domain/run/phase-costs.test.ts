import { expect, test } from 'vitest'
import type { TrainerEvent } from '../../../src/domain/protocol.ts'
import { phaseCosts } from '../../../src/domain/run/phase-costs.ts'
import { foldRun } from '../../../src/domain/run/state.ts'

const head = { seq: 0, ts: 0, attempt: 1 }
const step = (at: number, secondsPerStep: number, memoryBytes: number): TrainerEvent =>
  ({ ...head, event: 'step', step: at, loss: 1, learningRate: 1, gradientNorm: 1, secondsPerStep, memoryBytes }) as TrainerEvent
const phase = (at: number, index: number): TrainerEvent => ({
  ...head,
  event: 'phase',
  step: at,
  index,
  trainable: ['all'],
  parameters: 100 * index,
})
const started = (at: number): TrainerEvent => ({ ...head, event: 'started', step: at, steps: 9 })

test('a phase costs the median of its steps after the first, and the most memory of them', () => {
  const events = [started(0), step(1, 9, 10), step(2, 1, 20), step(3, 2, 20), phase(3, 1), step(4, 8, 50), step(5, 4, 40)]
  expect(phaseCosts(foldRun(events, []))).toMatchObject([
    { index: 0, from: 1, to: 3, secondsPerStep: 1, memoryBytes: 20 },
    { index: 1, from: 4, to: 5, parameters: 100, secondsPerStep: 4, memoryBytes: 50 },
  ])
})

test('a phase that a continued run begins again is one phase, and one it has not come to again is none', () => {
  const events = [started(0), step(1, 1, 1), phase(1, 1), step(2, 1, 1), started(0), step(1, 1, 1)]
  expect(phaseCosts(foldRun(events, [])).map(({ from, to }) => [from, to])).toEqual([[1, 1]])
  const again = [...events, phase(1, 1), step(2, 1, 1), step(3, 1, 1)]
  expect(phaseCosts(foldRun(again, [])).map(({ from, to }) => [from, to])).toEqual([
    [1, 1],
    [2, 3],
  ])
})
