import { describe, expect, vi } from 'vitest'
import type { Recipe } from '../../src/config/recipe.ts'
import type { Stage } from '../../src/domain/stage/schema.ts'
import { chainPlan, trainChain } from '../../src/runs/chain.ts'
import { stopRun } from '../../src/runs/control.ts'
import { advanceRun, type Prepared, startRun } from '../../src/runs/launch.ts'
import type { RunsWorld } from '../../src/runs/world.ts'
import { listRuns, type Run, readState } from '../../src/store/runs.ts'
import { fakeWorld, folderTest, followed, sideOf, startedRun, until } from './fake-world.ts'

vi.setConfig({ testTimeout: 60_000, maxConcurrency: 4 })

const test = folderTest

/** Two small stages, the second from the first one's moving average. */
const twoStages = (first: Record<string, unknown> = {}): Stage[] => [
  sideOf({ name: 'one', steps: 3, ...first }).stage,
  sideOf({ name: 'two', steps: 3, init: { weights: 'stage:one', use: 'ema' } }).stage,
]

async function trained(stages: Stage[], world: RunsWorld, until?: string) {
  const found: Prepared['found'][] = []
  const watcher = {
    before: async (_: Stage, prepared: Prepared) => {
      found.push(prepared.found)
      return true
    },
    follow: async (run: Run, start: () => Promise<void>) => {
      await start()
      await followed(run, world, readState(run).attempts.length)
      return readState(run).attempts.at(-1)?.end
    },
  }
  const { runs, end } = await trainChain({ recipe: 'chain.yaml', stages, until }, watcher, world)
  return { runs, end, found }
}

describe.concurrent('a chain', () => {
  test('trains each stage from the one before, and again only what has changed and what follows', async ({ folder }) => {
    const world = fakeWorld(folder, { stepMs: 1 })
    const first = await trained(twoStages(), world)
    const [one, two] = [first.runs.get('one'), first.runs.get('two')]
    expect(two?.identity.parent).toMatchObject({ run: one?.id, step: 3, use: 'ema' })
    const again = await trained(twoStages({ notes: 'only words' }), world)
    expect(again.found).toEqual(['finished', 'finished'])
    expect(again.runs.get('two')?.id).toBe(two?.id)
    expect((await trained(twoStages({ steps: 4 }), world)).found).toEqual(['new', 'new'])
    expect(listRuns(world.runsFolder)).toHaveLength(4)
  })

  test('stops at the first bad end', async ({ folder }) => {
    const { runs, end } = await trained(twoStages(), fakeWorld(folder, { stepMs: 1, dies: { step: 2, how: 'fail' } }))
    expect(end).toMatchObject({ reason: 'failed' })
    expect([...runs.keys()]).toEqual(['one'])
  })

  for (const [how, wish] of [
    ['stopped', {}],
    ['killed', { kill: true }],
  ] as const) {
    test(`goes on with a stage that was ${how}, from its checkpoint`, async ({ folder }) => {
      const world = fakeWorld(folder, { stepMs: 20 })
      const stages = twoStages({ steps: 60, checkpoint: { everySteps: 10 } })
      const first = trained(stages, world)
      const one = await startedRun('one', world)
      await until(one, world, 'checkpoint', 10)
      await stopRun(one, wish, world)
      expect((await first).end).toMatchObject({ reason: how })
      const again = await trained(stages, world)
      expect(again.found).toEqual(['unfinished', 'new'])
      expect(again.runs.get('one')?.id).toBe(one.id)
      expect(readState(one).attempts.map(({ end }) => end?.reason)).toEqual([how, 'completed'])
    })
  }

  test('is left where the watcher says so, and advance goes on by hand', async ({ folder }) => {
    const world = fakeWorld(folder, { stepMs: 1 })
    const { runs } = await trained(twoStages(), world, 'one')
    const parent = runs.get('one')
    if (!parent) throw new Error('the first stage has no run')
    const { run } = await advanceRun(parent, sideOf({ name: 'next', steps: 2 }), 'raw', undefined, world)
    expect(run.identity).toMatchObject({ verb: 'advance', parent: { run: parent.id, step: 3, use: 'raw' } })
    await startRun(run, world)
    await followed(run, world)
    expect(readState(run).attempts.at(-1)?.end).toMatchObject({ reason: 'completed' })
  })
})

test('a stage to end with that the recipe has not got is refused', () => {
  const recipe = { file: 'chain.yaml', name: 'chain', notes: '', provenance: {}, stages: [sideOf({ name: 'one' })] } as unknown as Recipe
  expect(() => chainPlan(recipe, { until: 'three' })).toThrow(expect.objectContaining({ code: 'STAGE_UNKNOWN' }))
  expect(chainPlan(recipe, { data: 'clips' }).stages[0]?.data.source).toBe('clips')
})
