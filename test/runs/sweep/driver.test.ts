import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, vi } from 'vitest'
import type { SweepState } from '../../../src/domain/sweep/state.ts'
import { followSweep, isSweepDriven, startSweep } from '../../../src/runs/sweep/begin.ts'
import { driveSweep } from '../../../src/runs/sweep/driver.ts'
import { lockHolder } from '../../../src/store/lock.ts'
import { findRun, listRuns } from '../../../src/store/runs.ts'
import { requestStop } from '../../../src/store/stop-request.ts'
import { readSweepState, type Sweep, sweepFiles, sweepJournal } from '../../../src/store/sweeps.ts'
import { fakeWorld, folderTest } from '../fake-world.ts'
import { madeSweep, ordered } from './sweep-world.ts'

const test = folderTest
// On a busy machine processes take their time to start.
vi.setConfig({ testTimeout: 90_000 })

async function sweepUntil(sweep: Sweep, holds: (state: SweepState) => boolean): Promise<void> {
  while (!holds(readSweepState(sweep))) await sleep(20)
}

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

describe('a sweep that is interrupted', () => {
  test.runIf(process.env.STAGEWRIGHT_FULL === '1')(
    'goes on after kills at any instant, counts nothing twice and comes to what an unbroken one comes to',
    async ({ folder }) => {
      const world = fakeWorld(folder, { stepMs: 10 })
      const keys = { budget: { trials: 5 }, objective: { everySteps: 10 }, deterministic: true, parallel: 2 }
      const sweep = madeSweep(world, keys)
      for (let kills = 0; kills < 3; kills += 1) {
        await startSweep(sweep, world)
        await sleep(600 + 900 * kills)
        const holder = lockHolder(sweepFiles(sweep.folder).lock)
        expect(holder).toBeDefined()
        if (holder) process.kill(holder.pid, 'SIGKILL')
        while (isSweepDriven(sweep)) await sleep(20)
      }
      await startSweep(sweep, world)
      for await (const _ of followSweep(sweep, 1, world));
      const { trials, points, end, drives } = readSweepState(sweep)
      expect([end?.reason, drives]).toEqual(['budget', 4])
      expect(trials.map(({ status, steps }) => [status, steps])).toEqual([['done', 60], ...Array.from({ length: 4 }, () => ['done', 40])])
      expect(new Set(trials.map(({ run }) => run)).size).toBe(5)
      expect(listRuns(world.runsFolder)).toHaveLength(6)
      for (const { reports } of trials) expect(reports.map(({ step }) => step)).toEqual([10, 20, 30, 40])
      const written = sweepJournal(sweep)
        .next()
        .filter((event) => event.event === 'report' || event.event === 'trialEnded' || event.event === 'told')
      expect(written).toHaveLength(5 * 4 + 5 + 5)

      const steady = fakeWorld(join(folder, 'b'), { stepMs: 1 })
      mkdirSync(steady.cwd)
      const unbroken = madeSweep(steady, keys)
      await driveSweep(unbroken.folder, steady)
      expect(readSweepState(unbroken).points.map(({ values, told }) => [values, told])).toEqual(
        points.map(({ values, told }) => [values, told]),
      )
    },
  )

  test('stops with a checkpoint when asked, and the same command goes on with the same trial', async ({ folder }) => {
    const world = fakeWorld(folder, { stepMs: 20 })
    const sweep = madeSweep(world, { budget: { trials: 2 } })
    const driving = driveSweep(sweep.folder, world)
    await sweepUntil(sweep, ({ trials }) => trials.some(({ status }) => status === 'running'))
    requestStop(sweep, { by: 'me', kill: false })
    expect(await driving).toMatchObject({ reason: 'stopped' })
    const [left, ...others] = readSweepState(sweep).trials
    expect([left?.status, others.filter(({ status }) => status !== 'queued')]).toEqual(['running', []])
    await driveSweep(sweep.folder, world)
    const { trials } = readSweepState(sweep)
    expect(trials.map(({ status, retries }) => [status, retries])).toEqual([
      ['done', {}],
      ['done', {}],
    ])
    expect(listRuns(world.runsFolder)).toHaveLength(3)
  })

  test('has a budget in all: a larger one goes on, another space is refused or forked', async ({ folder }) => {
    const world = fakeWorld(folder, { stepMs: 1 })
    const sweep = madeSweep(world, { budget: { trials: 2 } })
    await driveSweep(sweep.folder, world)
    expect(madeSweep(world, { budget: { trials: 3 } }).id).toBe(sweep.id)
    await driveSweep(sweep.folder, world)
    await driveSweep(sweep.folder, world)
    expect(readSweepState(sweep).trials).toHaveLength(3)

    const wider = { budget: { trials: 4 }, space: { learningRate: { min: 1e-6, max: 1e-1, log: true } } }
    expect(() => madeSweep(world, wider)).toThrow(/expected the sweep as it began, got another space/)
    const fork = madeSweep(world, wider, { fork: true })
    await driveSweep(fork.folder, world)
    const { trials } = readSweepState(fork)
    expect(trials.slice(0, 3).map(({ values, steps }) => [values, steps])).toEqual(
      readSweepState(sweep).trials.map(({ values }) => [values, 0]),
    )
    expect(trials[3]).toMatchObject({ status: 'done', steps: 40 })
  })
})

describe('the trials of a sweep', () => {
  test('are the same from the same seed, whatever ends first, where the sweep is deterministic', async ({ folder }) => {
    const outcomes = ['a', 'b'].map(async (name, place) => {
      const cwd = join(folder, name)
      mkdirSync(cwd)
      const world = fakeWorld(cwd, { stepMs: 1 + 9 * place })
      const sweep = madeSweep(world, ordered(5))
      await driveSweep(sweep.folder, world)
      const { trials } = readSweepState(sweep)
      return trials.map(({ values, status, value, reports }) => [values, status, value, reports.filter(({ prune }) => prune)])
    })
    const [first, second] = await Promise.all(outcomes)
    expect(first).toHaveLength(5)
    expect(second).toEqual(first)
  })

  test('are given up at rungs by equal steps, and pruned points say with what they were compared', async ({ folder }) => {
    const world = fakeWorld(folder, { stepMs: 2 })
    const space = { learningRate: { values: [1e-3, 1e-1, 1e-4, 1e-2] } }
    const sweep = madeSweep(world, {
      space,
      sampler: { name: 'grid' },
      budget: {},
      pruner: { name: 'asha', warmupSteps: 10, reduction: 2 },
    })
    expect(await driveSweep(sweep.folder, world)).toMatchObject({ reason: 'completed' })
    const { trials } = readSweepState(sweep)
    expect(trials.map(({ status }) => status)).toEqual(['done', 'pruned', 'pruned', 'pruned'])
    expect(trials[1]?.reports).toMatchObject([
      { step: 10, prune: true, compared: [{ point: 0 }], reason: expect.stringMatching(/^asha: .* at step 10, rank 2 of 2/) },
    ])
    expect(trials[1]?.steps).toBeLessThan(40)
  })

  test('repeat a point with further seeds only once the first is done, and compare by their mean', async ({ folder }) => {
    const world = fakeWorld(folder, { stepMs: 1 })
    const keys = { space: { learningRate: { values: [1e-3, 1e-1] } }, sampler: { name: 'grid' }, budget: {}, seeds: [1, 2, 3] }
    const sweep = madeSweep(world, { ...keys, pruner: { name: 'threshold', upper: 1, warmupSteps: 10 } })
    await driveSweep(sweep.folder, world)
    const { trials, points } = readSweepState(sweep)
    expect(trials.map(({ number, seed, status }) => [number, seed, status])).toEqual([
      [0, 1, 'done'],
      [1, 2, 'done'],
      [2, 3, 'done'],
      [3, 1, 'pruned'],
    ])
    expect(points[0]?.told?.value).toBeCloseTo(0.02 + 1 / 40, 6)
    expect(points[1]?.told).toEqual({ state: 'pruned', value: null })
  })

  test('end by class: what the machine broke goes on, what was asked wrong does not', async ({ folder }) => {
    const world = fakeWorld(folder, { stepMs: 2, dies: { step: 30, how: 'kill' }, nanAbove: 0.05 })
    const space = { learningRate: { values: [1e-3, 1e-1] } }
    const sweep = madeSweep(world, { space, sampler: { name: 'grid' }, budget: {}, objective: { everySteps: 20 } })
    await driveSweep(sweep.folder, world)
    expect(readSweepState(sweep).trials).toMatchObject([
      { status: 'done', retries: { infrastructure: 1 }, attempt: 2 },
      { status: 'failed', class: 'nonFinite', retries: {} },
    ])
    const asked = fakeWorld(folder, { dies: { step: 25, how: 'fail' } })
    const other = madeSweep(asked, { name: 'other', space: { learningRate: { values: [2e-3] } }, sampler: { name: 'grid' }, budget: {} })
    await driveSweep(other.folder, asked)
    expect(readSweepState(other).trials).toMatchObject([
      { status: 'failed', class: 'user', message: expect.stringContaining('[SHAPE_FRAMES]') },
    ])
  })

  test('are compared at the step of the objective, and stop there', async ({ folder }) => {
    const world = fakeWorld(folder, { stepMs: 5 })
    const sweep = madeSweep(world, { budget: { trials: 1 }, objective: { step: 15, everySteps: 10 } })
    await driveSweep(sweep.folder, world)
    const [trial] = readSweepState(sweep).trials
    expect(trial).toMatchObject({ status: 'done', step: 15 })
    expect(trial?.reports.map(({ step }) => step)).toEqual([5, 10, 15])
    expect(trial?.steps).toBeLessThan(20 + 40)
  })

  test('leave out points that no stage can be made of, and settings can be computed from others', async ({ folder }) => {
    const world = fakeWorld(folder, { stepMs: 1 })
    const sweep = madeSweep(world, {
      space: { 'batch.perDevice': { values: [2, 3, 4, 16] } },
      derived: { 'batch.accumulate': '16 / batch.perDevice' },
      constraints: ['globalBatch == 16', 'batch.perDevice <= 8'],
      sampler: { name: 'grid' },
      budget: {},
    })
    await driveSweep(sweep.folder, world)
    const { trials, points } = readSweepState(sweep)
    expect(points.map(({ infeasible }) => infeasible)).toEqual([
      null,
      expect.stringContaining('batch.accumulate'),
      null,
      'batch.perDevice <= 8 does not hold',
    ])
    const batches = trials.map(({ run }) => findRun(world.runsFolder, run ?? '').stage.batch)
    expect(batches).toEqual([
      { perDevice: 2, accumulate: 8 },
      { perDevice: 4, accumulate: 4 },
    ])
  })
})

describe('a sweep taken up', () => {
  test('finishes what a kill left between any two lines of its journal', async ({ folder }) => {
    const world = fakeWorld(folder, { stepMs: 1 })
    const keys = {
      budget: { trials: 2 },
      space: { 'batch.perDevice': { values: [2, 3, 4] } },
      constraints: ['batch.perDevice % 2 == 0'],
      sampler: { name: 'grid' },
    }
    const whole = madeSweep(world, keys)
    await driveSweep(whole.folder, world)
    const lines = readFileSync(sweepFiles(whole.folder).journal, 'utf8').trim().split('\n')
    const outcome = (sweep: Sweep) => readSweepState(sweep).points.map(({ values, infeasible, told }) => [values, infeasible, told])
    for (let kept = 2; kept < lines.length; kept += 1) {
      const sweep = cutSweep(
        join(dirname(whole.folder), `${whole.id.slice(0, -4)}${kept.toString(16).padStart(4, '0')}`),
        whole,
        lines.slice(0, kept),
      )
      await driveSweep(sweep.folder, world)
      expect(outcome(sweep), `after ${kept} lines`).toEqual(outcome(whole))
      expect(readSweepState(sweep).trials.map(({ status }) => status)).toEqual(['done', 'done'])
    }
    expect(listRuns(world.runsFolder).filter(({ stage }) => stage.name === 'second')).toHaveLength(2)
  })
})

/** A sweep as a kill may have left it: its storage ahead of its journal, which ends after some lines and the beginning of one. */
function cutSweep(folder: string, { identity, folder: from }: Sweep, lines: readonly string[]): Sweep {
  cpSync(from, folder, { recursive: true })
  writeFileSync(sweepFiles(folder).journal, `${lines.join('\n')}\n{"seq":${lines.length},"ev`)
  rmSync(sweepFiles(folder).lock, { force: true })
  return { id: identity.id, folder, identity }
}
