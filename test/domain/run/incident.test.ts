import { describe, expect, test } from 'vitest'
import type { TrainerEvent } from '../../../src/domain/protocol.ts'
import { incidentPage } from '../../../src/domain/run/incident.ts'
import { foldRun } from '../../../src/domain/run/state.ts'

let ts = 100
const head = () => ({ seq: 0, ts: ts++, attempt: 1 })
const steps = (from: number, to: number, loss: number): TrainerEvent[] =>
  Array.from({ length: to - from + 1 }, (_, index) => ({
    ...head(),
    event: 'step',
    step: from + index,
    loss,
    learningRate: 1e-4,
    secondsPerStep: 1,
  }))
const incident = (step: number, action: string, rolledBackTo?: number): TrainerEvent => ({
  ...head(),
  event: 'incident',
  step,
  kind: 'loss-spike',
  message: 'far off',
  action,
  rolledBackTo,
})

describe('the page of an incident', () => {
  test('after a roll-back the steps behind the checkpoint have not been done', () => {
    const state = foldRun([...steps(1, 10, 1), incident(11, 'rolled back to step 6', 6)], [])
    expect([state.step, state.points.at(-1)?.step]).toEqual([6, 6])
  })

  test('a roll-back that undid a change is a change', () => {
    const undone = { ...incident(11, 'rolled back', 6), undone: { learningRate: [1e30, 1e-3] } } as TrainerEvent
    expect(foldRun([undone], []).changes).toEqual([{ step: 7, path: 'learningRate', effective: 1e-3, by: 'roll-back' }])
  })

  test('says what the loss was before and after, up to the next incident', () => {
    const trainer = [...steps(1, 10, 1), incident(11, 'rolled back', 6), ...steps(7, 30, 0.5), incident(31, 'noted'), ...steps(31, 32, 9)]
    expect(incidentPage(foldRun(trainer, []), 1)?.followed).toEqual({
      lossBefore: 1,
      lossAfter: 0.5,
      steps: 24,
      next: { number: 2, step: 31, kind: 'loss-spike' },
      end: undefined,
    })
  })

  test('a run has no page of an incident it has not had', () => {
    const state = foldRun([incident(1, 'stopped')], [])
    expect(incidentPage(state, 1)).toMatchObject({ number: 1, of: 1, followed: { steps: 0, lossAfter: undefined } })
    expect([0, 2, 1.5, Number.NaN].map((number) => incidentPage(state, number))).toEqual([undefined, undefined, undefined, undefined])
  })
})
