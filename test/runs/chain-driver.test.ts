import { describe, expect, vi } from 'vitest'
import type { ChainNews } from '../../src/runs/chain-driver.ts'
import { chainOf, followChain, isDriven, startChain } from '../../src/runs/chain-driver.ts'
import type { RunsWorld } from '../../src/runs/world.ts'
import { type Chain, chainFiles, findChain, listChains, readChainState } from '../../src/store/chains.ts'
import { lockHolder } from '../../src/store/lock.ts'
import { listRuns, readState } from '../../src/store/runs.ts'
import { requestStop } from '../../src/store/stop-request.ts'
import { fakeWorld, folderTest, sideOf, startedRun, until } from './fake-world.ts'

vi.setConfig({ testTimeout: 60_000, maxConcurrency: 4 })

const test = folderTest

function chainIn(world: RunsWorld, steps = 3): Chain {
  const stages = [
    sideOf({ name: 'one', steps, checkpoint: { everySteps: 10 } }).stage,
    sideOf({ name: 'two', steps: 3, init: { weights: 'stage:one', use: 'ema' } }).stage,
  ]
  return chainOf({ recipe: 'folder/pair.yaml', stages }, world)
}

async function newsOf(chain: Chain, drive: number, world: RunsWorld): Promise<ChainNews[]> {
  const news: ChainNews[] = []
  for await (const item of followChain(chain, drive, world, AbortSignal.timeout(60_000))) news.push(item)
  return news
}

const words = (news: ChainNews[]) => news.map((item) => ('end' in item ? item.end.reason : `${item.stage} ${item.found}`))

describe.concurrent('a chain with a driver of its own', () => {
  test('trains its stages while nobody watches, and tells all of it to who looks later', async ({ folder }) => {
    const world = fakeWorld(folder, { stepMs: 1 })
    const chain = chainIn(world)
    expect(chain.id).toMatch(/-pair-[0-9a-f]{4}$/)
    const drive = await startChain(chain, world)
    expect(await startChain(chain, world)).toBe(drive)
    await vi.waitFor(() => expect(readChainState(chain).end).toMatchObject({ reason: 'completed' }), { timeout: 30_000 })
    expect(words(await newsOf(chain, drive, world))).toEqual(['one new', 'two new', 'completed'])
    await vi.waitFor(() => expect(isDriven(chain, world)).toBe(false))
    // The same stages again are the same chain, with nothing left to do.
    expect(chainIn(world).id).toBe(chain.id)
    expect(words(await newsOf(chain, await startChain(chain, world), world))).toEqual(['one finished', 'two finished', 'completed'])
    expect(listRuns(world.runsFolder)).toHaveLength(2)
    expect(chainIn(world, 4).id).not.toBe(chain.id)
    expect(listChains(world.runsFolder)).toHaveLength(2)
    expect(findChain(world.runsFolder, chain.id.slice(0, -1))?.id).toBe(chain.id)
  })

  test('whose driver is killed trains on, and is taken up by who looks next', async ({ folder }) => {
    const world = fakeWorld(folder, { stepMs: 10 })
    const chain = chainIn(world, 200)
    const drive = await startChain(chain, world)
    const one = await startedRun('one', world)
    await until(one, world, 'step', 2)
    process.kill(lockHolder(chainFiles(chain.folder).lock)?.pid ?? 0, 'SIGKILL')
    await vi.waitFor(() => expect(isDriven(chain, world)).toBe(false))
    const [first, again, ...rest] = words(await newsOf(chain, drive, world))
    expect(first).toBe('one new')
    // It may have come to its end before the next driver looked.
    expect(['one training', 'one finished']).toContain(again)
    expect(rest).toEqual(['two new', 'completed'])
    expect(readState(one).attempts).toHaveLength(1)
    expect(listRuns(world.runsFolder)).toHaveLength(2)
  })

  test('ends with a checkpoint when it is asked to, and goes on from there', async ({ folder }) => {
    const world = fakeWorld(folder, { stepMs: 10 })
    const chain = chainIn(world, 200)
    const drive = await startChain(chain, world)
    await until(await startedRun('one', world), world, 'step', 2)
    requestStop(chain, { by: 'somebody', kill: false })
    expect(words(await newsOf(chain, drive, world))).toEqual(['one new', 'stopped'])
    expect(words(await newsOf(chain, await startChain(chain, world), world))).toEqual(['one unfinished', 'two new', 'completed'])
    expect(listRuns(world.runsFolder)).toHaveLength(2)
  })

  test('says in its journal why it could not go on', async ({ folder }) => {
    const world = fakeWorld(folder, { stepMs: 1 })
    const stages = [sideOf({ name: 'two', steps: 3, init: { weights: 'stage:missing', use: 'ema' } }).stage]
    const chain = chainOf({ recipe: 'pair.yaml', stages }, world)
    const news = await newsOf(chain, await startChain(chain, world), world)
    expect(news).toMatchObject([{ end: { reason: 'failed', message: expect.stringContaining('[WEIGHTS_MISSING]') } }])
  })
})
