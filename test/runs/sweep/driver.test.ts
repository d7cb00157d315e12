import { describe, expect } from 'vitest'
import { driveSweep } from '../../../src/runs/sweep/driver.ts'
import { listRuns } from '../../../src/store/runs.ts'
import { readSweepState } from '../../../src/store/sweeps.ts'
import { fakeWorld, folderTest } from '../fake-world.ts'
import { madeSweep } from './sweep-world.ts'

const test = folderTest

describe('a sweep', () => {
  test('trains its trials from one run of the stage before and ranks them by their held-out loss', async ({ folder }) => {
    const world = fakeWorld(folder, { stepMs: 1 })
    const sweep = madeSweep(world)
    expect(await driveSweep(sweep.folder, world)).toEqual({ reason: 'budget', message: 'the budget is spent: 4 trials' })
    const { trials, points } = readSweepState(sweep)
    expect(trials.map(({ status, step }) => [status, step])).toEqual(Array.from({ length: 4 }, () => ['done', 40]))
    for (const { values, value } of trials) {
      expect(value).toBeCloseTo(Math.abs(Math.log10(values.learningRate as number) + 3) + 1 / 40, 6)
    }
    expect(points.map(({ told }) => told?.value)).toEqual(trials.map(({ value }) => value))
    expect(listRuns(world.runsFolder).map(({ stage }) => stage.name)).toEqual(['first', 'second', 'second', 'second', 'second'])
    expect(trials.map(({ prefix }) => prefix.map(({ reused }) => reused))).toEqual([[false], [true], [true], [true]])
    expect(trials.map(({ steps }) => steps)).toEqual([60, 40, 40, 40])
  })
})
