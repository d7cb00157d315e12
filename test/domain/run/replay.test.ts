import { describe, expect, test } from 'vitest'
import type { TrainerEvent } from '../../../src/domain/protocol.ts'
import { compareReplay, repeatedCommands, surroundingsDiffer } from '../../../src/domain/run/replay.ts'

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

describe('what a replay follows', () => {
  const head = { seq: 0, ts: 0, attempt: 1 }
  const set = (step: number, path: string, effective: unknown): TrainerEvent => ({
    ...head,
    event: 'command',
    id: path,
    name: 'set',
    status: 'applied',
    step,
    path,
    effective,
  })
  const wentBack = (step: number, rolledBackTo: number): TrainerEvent => ({
    ...head,
    event: 'incident',
    step,
    kind: 'non-finite',
    message: '',
    action: '',
    rolledBackTo,
  })
  const checkpoint = (step: number): TrainerEvent => ({
    ...head,
    event: 'checkpoint',
    step,
    path: `${step}`,
    bytes: 1,
    sha256: '',
    seconds: 0,
  })
  const told = (events: readonly TrainerEvent[], until?: number) =>
    repeatedCommands(events, until).map(({ name, step, rollbacks, path }) => `${name} ${path ?? ''} at ${step} after ${rollbacks}`)

  test('is what acts on its numbers, and the step it was stopped after', () => {
    const refused = { ...set(3, 'steps', 1), status: 'refused' } as TrainerEvent
    const measure = { ...set(6, 'a', null), name: 'measure', path: undefined } as TrainerEvent
    const sample = { ...measure, name: 'sample' } as TrainerEvent
    const events = [set(5, 'clip.norm', 1), refused, sample, checkpoint(5), measure]
    expect(told(events)).toEqual(['set clip.norm at 5 after 0', 'measure  at 6 after 0'])
    expect(told(events, 8).at(-1)).toBe('stop  at 9 after 0')
  })

  test('waits for the roll-backs before it, with checkpoints where the run had its own', () => {
    const events = [checkpoint(4), set(6, 'learningRate', 9), wentBack(7, 4), set(5, 'clip.norm', 1), checkpoint(6)]
    expect(told(events, 6)).toEqual([
      'set checkpoint.everyMinutes at 1 after 0',
      'checkpoint  at 5 after 0',
      'set learningRate at 6 after 0',
      'set clip.norm at 5 after 1',
      'checkpoint  at 7 after 1',
      'stop  at 7 after 1',
    ])
  })

  test('comes after a roll-back that was before it, where an earlier attempt had come further', () => {
    const events = [checkpoint(4), set(9, 'clip.norm', 1), set(6, 'learningRate', 9), wentBack(7, 4)]
    expect(told(events).filter((line) => line.includes('clip'))).toEqual(['set clip.norm at 9 after 1'])
  })
})
