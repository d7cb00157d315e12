import { describe, expect, vi } from 'vitest'
import { sweep } from '../../../src/api.ts'
import type { SweepInput } from '../../../src/domain/sweep/schema.ts'
import { findRun, readState } from '../../../src/store/runs.ts'
import { findSweep, readSweepState } from '../../../src/store/sweeps.ts'
import { fakeWorld, folderTest } from '../fake-world.ts'
import { sweepInput } from './sweep-world.ts'

const test = folderTest
vi.setConfig({ testTimeout: 60_000 })

describe('a sweep in a script', () => {
  test('gives its trials one after another, and goes on where the script left the loop', async ({ folder }) => {
    const world = fakeWorld(folder, { stepMs: 2 })
    const input = sweepInput(folder, { budget: { trials: 3 } })
    for await (const trial of sweep(input, world)) {
      expect(trial).toMatchObject({ number: 0, status: 'done', step: 40 })
      break
    }
    const numbers: number[] = []
    for await (const trial of sweep(input, world)) numbers.push(trial.number)
    // The next trial may have come to its end while the loop was left.
    expect([[1, 2], [2]]).toContainEqual(numbers)
    const state = readSweepState(findSweep(world.runsFolder, 'rates'))
    expect(state).toMatchObject({ drives: 2, end: { reason: 'budget' } })
    expect(state.trials.map(({ status, step }) => [status, step])).toEqual([0, 1, 2].map(() => ['done', 40]))
  })

  test('lets the script suggest, observe, stop and branch', async ({ folder }) => {
    const world = fakeWorld(folder, { stepMs: 10 })
    const search = sweep(sweepInput(folder, { objective: { everySteps: 10 } }), world)
    const good = await search.suggest({ learningRate: 1e-2 })
    if (!good) throw new Error('no trial')
    const training = search.train(good)
    const steps: number[] = []
    for await (const { step } of search.observe(good)) steps.push(step)
    expect([steps, await training]).toMatchObject([[10, 20, 30, 40], { status: 'done' }])

    const bad = await search.suggest()
    if (!bad) throw new Error('no trial')
    const cancelled = search.train(bad)
    for await (const _ of search.observe(bad)) search.stop(bad, 'enough seen')
    expect(await cancelled).toMatchObject({ status: 'cancelled', message: 'enough seen' })

    const branch = await search.branch(good, { learningRate: 1e-3 }, 20).then((trial) => search.train(trial))
    expect(branch).toMatchObject({ status: 'done', step: 40, branchedFrom: { trial: 0, step: 20 } })
    const run = findRun(world.runsFolder, branch?.run ?? '')
    expect([run.identity.verb, run.identity.parent?.step]).toEqual(['branch', 20])
    expect(run.identity.inputs.state).toContain(`${good.run ?? search.state.trials[0]?.run}/checkpoints/step-00000020`)
    expect((await search.report()).ranking.best?.point).toBe(branch?.point)
    await expect(search.suggest({ learningRate: 5 })).rejects.toThrow('learningRate = 5 lies outside its axis')
    await search.close()
  })

  test('over lengths goes on from the end of the shorter ones instead of starting over', async ({ folder }) => {
    const world = fakeWorld(folder, { stepMs: 1 })
    const input: SweepInput = sweepInput(folder, {
      space: { steps: { values: [20, 30, 50] }, learningRate: { values: [1e-3] } },
      sampler: { name: 'grid' },
      budget: {},
    })
    for await (const _ of sweep(input, world));
    const { trials } = readSweepState(findSweep(world.runsFolder, 'rates'))
    expect(trials.map(({ step, branchedFrom, steps }) => [step, branchedFrom, steps])).toEqual([
      [20, null, 40],
      [30, { trial: 0, step: 20, counts: true }, 10],
      [50, { trial: 1, step: 30, counts: true }, 20],
    ])
    expect(readState(findRun(world.runsFolder, trials[2]?.run ?? '')).steps).toBe(20)
  })
})
