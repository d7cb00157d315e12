import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { EndReason, SupervisorEvent, TrainerEvent } from '../../../src/domain/protocol.ts'
import { endOf, foldRun, fullDiskText, newestAttempt, RunFold } from '../../../src/domain/run/state.ts'

const head = (attempt: number) => ({ seq: 0, ts: 100, attempt })
const started = (attempt: number, step: number): TrainerEvent => ({ ...head(attempt), event: 'started', step, steps: 100 })
const step = (attempt: number, at: number, loss = 1 / at): TrainerEvent => ({
  ...head(attempt),
  event: 'step',
  step: at,
  loss,
  learningRate: 1e-4,
  secondsPerStep: 1,
})
const heldOut = (attempt: number, at: number): TrainerEvent => ({
  ...head(attempt),
  event: 'heldOut',
  step: at,
  raw: { loss: 1 },
  ema: null,
})
const attemptLine = (attempt: number, handle: unknown = {}): SupervisorEvent => ({
  ...head(attempt),
  event: 'attempt',
  engine: 'local',
  handle,
  command: [],
  continuesFrom: null,
})
const ended = (attempt: number, reason: EndReason): SupervisorEvent => ({
  ...head(attempt),
  event: 'ended',
  reason,
  message: reason,
  exitCode: 1,
  signal: null,
  step: 3,
  hint: 'continue',
  log: null,
})
const steps = (attempt: number, from: number, to: number) =>
  Array.from({ length: to - from + 1 }, (_, index) => step(attempt, from + index))

describe('the state of a run', () => {
  test('a run without lines has no attempt, no end and no step', () => {
    const state = foldRun([], [])
    expect([newestAttempt(state), endOf(state), state.step]).toEqual([undefined, undefined, 0])
  })

  test('a full disk is waited for until there is room or the ranks are ready anew', () => {
    const full: TrainerEvent = { ...head(1), event: 'diskFull', step: 3, needed: 1_200_000_000, free: 300_000_000 }
    const ready: TrainerEvent = {
      ...head(1),
      event: 'ready',
      protocol: 1,
      worldSize: 1,
      pids: [1],
      host: 'a',
      device: 'cpu',
      torch: '2',
      threads: 1,
      socket: null,
    }
    const diskAfter = (...lines: TrainerEvent[]) => newestAttempt(foldRun([started(1, 0), step(1, 1), ...lines], []))?.fullDisk
    const waited = diskAfter(full)
    expect(waited && fullDiskText(waited)).toBe('waiting: disk full, needs 1.2 GB, free 300.0 MB')
    expect(diskAfter(full, { ...head(1), event: 'diskFree', step: 3, seconds: 4 })).toBeUndefined()
    expect(diskAfter(full, ready)).toBeUndefined()
  })

  test('steps and measurements after the checkpoint a run continues from are replaced by those done again', () => {
    const trainer = [...[started(1, 0), ...steps(1, 1, 5), heldOut(1, 4), heldOut(1, 5)], ...[started(2, 4), step(2, 5, 0.25), step(2, 6)]]
    const state = foldRun(trainer, [attemptLine(1), ended(1, 'killed'), attemptLine(2)])
    expect(state.points.map((point) => [point.step, point.attempt])).toEqual([
      [1, 1],
      [2, 1],
      [3, 1],
      [4, 1],
      [5, 2],
      [6, 2],
    ])
    expect(state.heldOut.map(({ step: at }) => at)).toEqual([4])
    expect(endOf(state)).toBeUndefined()
  })

  test('a roll-back inside an attempt drops what came after it', () => {
    const state = foldRun([started(1, 0), ...steps(1, 1, 6), step(1, 3, 0.5)], [attemptLine(1)])
    expect(state.points.map(({ step: at }) => at)).toEqual([1, 2, 3])
    expect(state.step).toBe(3)
  })

  test('the end of an earlier attempt is not the end of the run', () => {
    const state = foldRun([], [attemptLine(1), ended(1, 'stopped'), attemptLine(2)])
    expect(newestAttempt(state)?.number).toBe(2)
    expect(endOf(state)).toBeUndefined()
    expect(state.attempts[0]?.end).toEqual({
      reason: 'stopped',
      message: 'stopped',
      exitCode: 1,
      signal: null,
      step: 3,
      hint: 'continue',
      log: null,
    })
  })

  test('a live change of the number of steps is the number of steps', () => {
    const change: TrainerEvent = {
      ...head(1),
      event: 'command',
      id: 'a',
      name: 'set',
      path: 'steps',
      step: 2,
      status: 'applied',
      effective: 50,
    }
    const state = foldRun([started(1, 0), change], [attemptLine(1)])
    expect([state.steps, state.changes[0]?.effective]).toEqual([50, 50])
  })

  test('an attempt told again with its handle keeps what the trainer has said in between, and when it began', () => {
    const fold = new RunFold()
    fold.add(1, attemptLine(1, null))
    fold.add(1, { ...head(1), event: 'failed', code: 'X', message: 'x' })
    fold.add(1, { ...attemptLine(1, { kind: 'local' }), ts: 200 })
    expect(fold.state().attempts).toMatchObject([{ handle: { kind: 'local' }, startedAt: 100, failure: { code: 'X' } }])
  })

  test('what is measured or sampled again at a step replaces what was there, and an earlier state stays as it was', () => {
    const sample = { ...head(1), event: 'sample', step: 4, path: 'samples/a.mp4', prompt: 'x', weights: 'ema' } as const
    const fold = new RunFold()
    for (const event of [started(1, 0), ...steps(1, 1, 4), heldOut(1, 4), sample]) fold.add(1, event)
    const before = fold.state()
    for (const event of [{ ...heldOut(1, 4), raw: { loss: 0.5 } } as TrainerEvent, sample]) fold.add(1, event)
    expect(fold.state().heldOut.map(({ raw }) => raw.loss)).toEqual([0.5])
    expect(fold.state().samples).toHaveLength(1)
    expect(before.heldOut.map(({ raw }) => raw.loss)).toEqual([1])
  })

  test('a trainer that spoke before its supervisor wrote is an attempt', () => {
    expect(newestAttempt(foldRun([{ ...head(1), event: 'failed', code: 'X', message: 'x' }], []))).toMatchObject({
      number: 1,
      failure: { code: 'X' },
    })
  })
})

test('any beginning of both journals folds: steps are unique and rising, an end is there only with its line', () => {
  const trainer = [
    ...[started(1, 0), ...steps(1, 1, 8), heldOut(1, 4), heldOut(1, 8)],
    ...[started(2, 4), ...steps(2, 5, 9), started(3, 8), ...steps(3, 9, 12)],
  ]
  const supervisor = [attemptLine(1, null), attemptLine(1), ended(1, 'killed'), attemptLine(2), ended(2, 'lost'), attemptLine(3)]
  fc.assert(
    fc.property(fc.nat(trainer.length), fc.nat(supervisor.length), (said, told) => {
      const state = foldRun(trainer.slice(0, said), supervisor.slice(0, told))
      const at = state.points.map((point) => point.step)
      expect(at).toEqual([...new Set(at)].sort((a, b) => a - b))
      expect(at.every((value) => value <= state.step)).toBe(true)
      expect(state.heldOut.every((point) => point.step <= state.step)).toBe(true)
      const newest = newestAttempt(state)?.number ?? 0
      const hasEnd = supervisor.slice(0, told).some((event) => event.event === 'ended' && event.attempt === newest)
      expect(endOf(state) !== undefined).toBe(hasEnd)
    }),
  )
})

test('a fold that grows line by line says what a fold of the whole says', () => {
  const trainer = [started(1, 0), ...steps(1, 1, 4), heldOut(1, 4), started(2, 2), ...steps(2, 3, 5)]
  const fold = new RunFold()
  fold.add(1, attemptLine(1))
  for (const event of trainer) {
    if (event.attempt === 2 && event.event === 'started') fold.add(2, attemptLine(2))
    fold.add(event.attempt, event)
  }
  expect(fold.state()).toEqual(foldRun(trainer, [attemptLine(1), attemptLine(2)]))
})
