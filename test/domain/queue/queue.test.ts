import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  fitsAlone,
  foldQueue,
  hasWork,
  type Needs,
  type QueueEvent,
  type Resources,
  startable,
  waitsFor,
} from '../../../src/domain/queue/queue.ts'
import { defaultStage } from '../../../src/domain/stage/fields.ts'

const stage = defaultStage('small')
const gib = 2 ** 30
const machine: Resources = { gpus: [0, 1].map((name) => ({ name: String(name), memoryBytes: 80 * gib })), cores: 8, memoryBytes: 64 * gib }
const cpu: Needs = { gpus: 0, cores: 2, memoryBytes: null }
const gpu = (gpus: number, memoryBytes: number | null = null): Needs => ({ gpus, cores: null, memoryBytes })

type Body = QueueEvent extends infer Each ? (Each extends QueueEvent ? Omit<Each, 'seq' | 'ts'> : never) : never
const fold = (...bodies: Body[]) => foldQueue(bodies.map((body, seq) => ({ seq, ts: seq, ...body }) as QueueEvent))
const added = (id: number, needs: Needs = cpu, more: { priority?: number; after?: number[] } = {}): Body => ({
  event: 'added',
  by: 'me',
  entry: { id, stage, recipe: null, cwd: '/', needs, priority: 0, after: [], ...more },
})
const started = (id: number, gpus: string[] = []): Body => ({ event: 'started', id, run: `run-${id}`, attempt: 1, gpus })
const ended = (id: number, reason: 'completed' | 'failed' | 'stopped' = 'completed'): Body => ({ event: 'ended', id, reason, message: '' })
const turns = (queue: ReturnType<typeof fold>) => queue.entries.map(({ id }) => id)
const next = (queue: ReturnType<typeof fold>) => startable(queue, machine).map(({ entry, gpus }) => [entry.id, ...gpus])

describe('turns', () => {
  test('go by priority and then by when an entry was added, until somebody moves one', () => {
    const events = [added(1), added(2, cpu, { priority: 5 }), added(3), added(4)]
    expect(turns(fold(...events))).toEqual([2, 1, 3, 4])
    const move = (id: number, before: number | null, priority: number | null = null): Body => ({
      event: 'moved',
      id,
      before,
      priority,
      by: 'me',
    })
    expect(turns(fold(...events, move(4, 1)))).toEqual([2, 4, 1, 3])
    expect(turns(fold(...events, move(4, 2)))).toEqual([4, 2, 1, 3])
    expect(turns(fold(...events, move(1, null)))).toEqual([2, 3, 4, 1])
    expect(turns(fold(...events, move(3, null, 9)))).toEqual([3, 2, 1, 4])
  })

  test('come after what they depend on has completed, and never after a bad end', () => {
    const events = [added(1), added(2, cpu, { after: [1] })]
    expect(next(fold(...events))).toEqual([[1]])
    expect(next(fold(...events, started(1)))).toEqual([])
    expect(next(fold(...events, started(1), ended(1)))).toEqual([[2]])
    for (const end of ['failed', 'stopped'] as const) {
      const queue = fold(...events, started(1), ended(1, end))
      const [, second] = queue.entries
      expect([next(queue), second && waitsFor(second, queue), hasWork(queue)]).toEqual([[], '1 did not complete', false])
    }
    expect(hasWork(fold(...events, { event: 'held', id: 1, by: 'me' }))).toBe(false)
    expect(hasWork(fold(...events, { event: 'held', id: 1, by: 'me' }, { event: 'released', id: 1, by: 'me' }))).toBe(true)
    expect(hasWork(fold(...events, { event: 'cancelled', id: 1, kill: false, by: 'me' }))).toBe(false)
  })

  test('of an entry that trains end by a wish, not at once', () => {
    const queue = fold(added(1), started(1), { event: 'cancelled', id: 1, kill: true, by: 'me' })
    expect(queue.entries[0]).toMatchObject({ state: 'running', cancel: { by: 'me', kill: true } })
  })
})

describe('room', () => {
  test('is given GPU by GPU, and cores to those that train without', () => {
    expect(next(fold(added(1, gpu(1)), added(2, gpu(1)), added(3, gpu(1)), added(4), added(5, { ...cpu, cores: null })))).toEqual([
      [1, '0'],
      [2, '1'],
      [4],
    ])
  })

  test('is not taken by a small stage that would keep a larger one waiting for ever', () => {
    expect(next(fold(added(1, gpu(1)), started(1, ['0']), added(2, gpu(2)), added(3, gpu(1))))).toEqual([])
  })

  test('on a GPU is shared as far as the estimates fit', () => {
    const small = gpu(1, 30 * gib)
    expect(next(fold(added(1, small), added(2, small), added(3, small), added(4, small), added(5, small)))).toEqual([
      [1, '0'],
      [2, '1'],
      [3, '0'],
      [4, '1'],
    ])
    // One without an estimate shares nothing.
    expect(next(fold(added(1, small), started(1, ['0']), added(2, gpu(1)), added(3, gpu(1))))).toEqual([[2, '1']])
  })

  test('that a machine does not have is known before', () => {
    expect(fitsAlone(gpu(3), machine)).toBe(false)
    expect(fitsAlone(gpu(1, 79 * gib), machine)).toBe(false)
    expect(fitsAlone({ ...cpu, cores: 9 }, machine)).toBe(false)
    expect(fitsAlone({ ...cpu, cores: null }, machine)).toBe(true)
  })

  const anyNeeds = fc.oneof(
    fc.record({
      gpus: fc.constant(0),
      cores: fc.option(fc.integer({ min: 1, max: 8 })),
      memoryBytes: fc.option(fc.integer({ min: 0, max: 50 * gib })),
    }),
    fc.record({
      gpus: fc.integer({ min: 1, max: 2 }),
      cores: fc.constant(null),
      memoryBytes: fc.option(fc.integer({ min: 0, max: 70 * gib })),
    }),
  )

  test('is never given twice, and everything that fits alone gets its turn', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(anyNeeds, fc.integer({ min: 0, max: 2 })), { maxLength: 12 }), (any) => {
        const wanted = any.filter(([needs]) => fitsAlone(needs, machine))
        const events: Body[] = wanted.map(([needs, priority], place) => added(place + 1, needs, { priority }))
        let done = 0
        for (let round = 0; round < 20; round += 1) {
          const placements = startable(fold(...events), machine)
          const used = new Map<string, number>()
          for (const { entry, gpus } of placements) {
            expect(gpus).toHaveLength(entry.needs.gpus)
            expect(new Set(gpus).size).toBe(gpus.length)
            for (const name of gpus) used.set(name, (used.get(name) ?? 0) + (entry.needs.memoryBytes ?? 72 * gib))
          }
          for (const bytes of used.values()) expect(bytes).toBeLessThanOrEqual(72 * gib)
          const without = placements.filter(({ entry }) => entry.needs.gpus === 0)
          expect(without.reduce((sum, { entry }) => sum + (entry.needs.cores ?? 8), 0)).toBeLessThanOrEqual(8)
          for (const { entry, gpus } of placements) events.push(started(entry.id, [...gpus]), ended(entry.id))
          done += placements.length
          if (placements.length === 0) break
        }
        expect(done).toBe(wanted.length)
      }),
    )
  })
})
