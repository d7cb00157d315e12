import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, vi } from 'vitest'
import type { QueueEntry, Resources } from '../../src/domain/queue/queue.ts'
import type { StageSide } from '../../src/domain/stage/origin.ts'
import { type Addition, addToQueue, adoptQueue, tellQueue } from '../../src/runs/queue.ts'
import { driveQueue } from '../../src/runs/queue-driver.ts'
import type { RunsWorld } from '../../src/runs/world.ts'
import { lockHolder } from '../../src/store/lock.ts'
import { queueFiles, queueFolder, readQueue } from '../../src/store/queue.ts'
import { filesOf, findRun, listRuns, readState } from '../../src/store/runs.ts'
import { type Behaviour, fakeWorld, folderTest, sideOf, supervised } from './fake-world.ts'

vi.setConfig({ testTimeout: 60_000, maxConcurrency: 3 })

const test = folderTest
const usual = { priority: 0, share: false }
const machine: Resources = { gpus: [], cores: 4, memoryBytes: 2 ** 34 }
const worldOf = (folder: string, behaviour?: Behaviour, has: Partial<Resources> = {}): RunsWorld => ({
  ...supervised(fakeWorld(folder, behaviour)),
  resources: async () => ({ ...machine, ...has }),
})
const one = (settings: Record<string, unknown>, after: Addition['after'] = []): Addition => ({
  side: sideOf({ memory: { device: 'cpu', threads: 2 }, ...settings }) as StageSide,
  recipe: null,
  after,
})
const entries = (world: RunsWorld) => readQueue(queueFolder(world.runsFolder)).entries
const runOf = (world: RunsWorld, entry: QueueEntry | undefined) => findRun(world.runsFolder, entry?.run ?? '')
const drive = (world: RunsWorld) => driveQueue(queueFolder(world.runsFolder), world)
const say = (world: RunsWorld, line: object) => tellQueue(world, () => [{ by: 'me', ...line } as never])

async function eventually(isSo: () => boolean): Promise<void> {
  await vi.waitFor(() => expect(isSo()).toBe(true), { timeout: 40_000, interval: 50 })
}

describe.concurrent('the queue of a machine', () => {
  test('trains each stage after the one before, with its weights, and another beside them', async ({ folder }) => {
    const world = worldOf(folder, { stepMs: 1 })
    const chain = [one({ name: 'one', steps: 3 }), one({ name: 'two', steps: 3, init: { weights: 'stage:one', use: 'ema' } }, ['previous'])]
    await addToQueue(chain, usual, world)
    await addToQueue([one({ name: 'beside', steps: 4 })], usual, world)
    await drive(world)
    expect(entries(world).map(({ state, end }) => [state, end?.reason])).toEqual([1, 2, 3].map(() => ['ended', 'completed']))
    const [first, second] = entries(world)
    expect(runOf(world, second).identity.parent).toMatchObject({ run: first?.run, step: 3 })
    const startOf = (entry: QueueEntry | undefined) => readState(runOf(world, entry)).attempts[0]?.startedAt ?? 0
    expect(startOf(entries(world)[2])).toBeLessThan(startOf(second))
  })

  test('gives each its own GPU, and leaves the next waiting', async ({ folder }) => {
    const gpus = ['0', '1'].map((name) => ({ name, memoryBytes: 2 ** 36 }))
    const world = worldOf(folder, { stepMs: 1 }, { gpus })
    const additions = ['a', 'b', 'c'].map((name) => one({ name, steps: 3, memory: { device: 'auto' } }))
    await addToQueue(additions, usual, world)
    await drive(world)
    expect(entries(world).map(({ end }) => end?.reason)).toEqual(['completed', 'completed', 'completed'])
    expect(
      entries(world)
        .slice(0, 2)
        .map(({ gpus }) => gpus),
    ).toEqual([['0'], ['1']])
    const engine = JSON.parse(readFileSync(filesOf(runOf(world, entries(world)[1]).folder).engine, 'utf8'))
    expect(engine).toMatchObject({ kind: 'local', devices: ['1'] })
    await expect(addToQueue([one({ parallel: { processes: 3 }, memory: { device: 'cuda' } })], usual, world)).rejects.toMatchObject({
      code: 'QUEUE_TOO_LARGE',
    })
  })

  test('passes on a wish to stop, keeps what is held, and starts nothing after a bad end', async ({ folder }) => {
    const world = worldOf(folder)
    await addToQueue([one({ name: 'long', steps: 20_000 }), one({ name: 'next' }, ['previous'])], usual, world)
    await addToQueue([one({ name: 'held', steps: 3 })], usual, world)
    await say(world, { event: 'held', id: 3 })
    const driven = drive(world)
    await eventually(() => entries(world)[0]?.state === 'running' && readState(runOf(world, entries(world)[0])).step > 3)
    await say(world, { event: 'cancelled', id: 1, kill: false })
    await driven
    expect(entries(world).map(({ state, end }) => [state, end?.reason])).toEqual([
      ['ended', 'stopped'],
      ['queued', undefined],
      ['held', undefined],
    ])
    await say(world, { event: 'released', id: 3 })
    await drive(world)
    expect(entries(world)[2]).toMatchObject({ state: 'ended', end: { reason: 'completed' } })
  })

  test('says why a stage could not start, and goes on with the others', async ({ folder }) => {
    const world = worldOf(folder, { stepMs: 1 })
    await addToQueue(
      [one({ name: 'broken', init: { weights: 'nowhere.safetensors', use: 'ema' } }), one({ name: 'fine', steps: 2 })],
      usual,
      world,
    )
    await drive(world)
    expect(entries(world).map(({ end }) => end?.reason)).toEqual(['failed', 'completed'])
    expect(entries(world)[0]?.end?.message).toContain('nowhere.safetensors')
  })

  test('whose driver is killed goes on: runs train, the next look takes the queue up, and nothing trains twice', async ({ folder }) => {
    const world = worldOf(folder, { stepMs: 5 })
    const alone = one({ name: 'one', steps: 600, memory: { device: 'cpu', threads: 4 } })
    await addToQueue([alone, one({ name: 'two', steps: 3, memory: { device: 'cpu', threads: 4 } })], usual, world)
    // The driver, a process of its own, sees this machine and not the one of the test.
    await say(world, { event: 'slots', resources: machine })
    await adoptQueue(world)
    await eventually(() => entries(world)[0]?.state === 'running' && readState(runOf(world, entries(world)[0])).step > 0)
    const { driverLock } = queueFiles(queueFolder(world.runsFolder))
    process.kill(lockHolder(driverLock)?.pid ?? Number.NaN, 'SIGKILL')
    const before = readState(runOf(world, entries(world)[0])).step
    await sleep(300)
    expect(readState(runOf(world, entries(world)[0])).step).toBeGreaterThan(before)
    await Promise.all([adoptQueue(world), adoptQueue(world)])
    await eventually(() => entries(world).every(({ state }) => state === 'ended'))
    expect(entries(world).map(({ end }) => end?.reason)).toEqual(['completed', 'completed'])
    expect(listRuns(world.runsFolder).map((run) => readState(run).attempts.length)).toEqual([1, 1])
  })

  test('many add to at once loses nothing and numbers each once', async ({ folder }) => {
    const world = worldOf(folder)
    const ids = await Promise.all(Array.from({ length: 12 }, (_, at) => addToQueue([one({ name: `s${at}` })], usual, world)))
    expect(ids.flat().sort((a, b) => a - b)).toEqual(Array.from({ length: 12 }, (_, at) => at + 1))
    expect(entries(world)).toHaveLength(12)
  })
})
