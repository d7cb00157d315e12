import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, expect, test } from 'vitest'
import { readConfigFile } from '../../src/config/source.ts'
import { loadSweep } from '../../src/config/sweep-file.ts'
import { followSweep, isSweepDriven, startSweep, sweepFor } from '../../src/runs/sweep/begin.ts'
import { reportSweep } from '../../src/runs/sweep/report.ts'
import { lockHolder } from '../../src/store/lock.ts'
import { listRuns } from '../../src/store/runs.ts'
import { readSweepState, sweepFiles, sweepJournal } from '../../src/store/sweeps.ts'
import { tinyStages, tinyWorld } from './tiny-stages.ts'

/*
 * A sweep of the real trainer over learning rate, frozen depth and decay of the average, with rungs, from one run of the stage before,
 * its driver killed three times. The region that is best is known: a rate too small learns nothing in so few steps, one too large
 * diverges.
 */
const isFull = process.env.STAGEWRIGHT_FULL === '1'
const size = isFull ? { trials: 24, steps: 45, parallel: 1 } : { trials: 6, steps: 9, parallel: 1 }
const { world, data } = tinyWorld()

afterAll(() => rmSync(world.cwd, { recursive: true, force: true, maxRetries: 5 }))

const { vae } = tinyStages.first
const first = {
  ...tinyStages.first,
  vae: { ...vae, weights: 'random' },
  steps: 4,
  batch: { perDevice: 2, accumulate: 1 },
  checkpoint: { everySteps: 100 },
}
const recipe = {
  formatVersion: 1,
  name: 'tiny',
  stages: [first, { ...first, name: 'second', init: { weights: 'stage:first', use: 'raw' }, steps: size.steps }],
}

test('a sweep killed three times finds the region planted for it, and pays for nothing twice', { timeout: 600_000 }, async () => {
  writeFileSync(join(world.cwd, 'tiny.yaml'), JSON.stringify(recipe))
  const file = join(world.cwd, 'sweep.yaml')
  const rungs = { name: 'asha', warmupSteps: Math.floor(size.steps / 9) * 3, reduction: 3 }
  writeFileSync(
    file,
    JSON.stringify({
      formatVersion: 1,
      name: 'tiny',
      recipe: 'tiny.yaml',
      stage: 'second',
      space: {
        learningRate: { min: 1e-7, max: 1, log: true },
        trainable: { values: [['all'], ['all', '-blocks[0:2]']] },
        'ema.decay': { values: [0.5, 0.9] },
      },
      budget: { trials: size.trials },
      sampler: { name: 'tpe', seed: 3, startup: isFull ? 8 : 4 },
      pruner: rungs,
      parallel: size.parallel,
    }),
  )
  const sweep = sweepFor(loadSweep(file, { readFile: readConfigFile, data }), {}, world)
  for (let kills = 0; kills < 3; kills += 1) {
    await startSweep(sweep, world)
    const ended = () => readSweepState(sweep).trials.filter(({ status }) => status !== 'queued' && status !== 'starting').length
    while (ended() < 1 + kills) await sleep(50)
    await sleep(Math.random() * 1000)
    const holder = lockHolder(sweepFiles(sweep.folder).lock)
    if (holder) process.kill(holder.pid, 'SIGKILL')
    while (isSweepDriven(sweep)) await sleep(20)
  }
  for await (const _ of followSweep(sweep, 1, world));

  const { trials, drives, end } = readSweepState(sweep)
  expect([end?.reason, trials.length]).toEqual(['budget', size.trials])
  expect(drives).toBeGreaterThanOrEqual(4)
  const told = sweepJournal(sweep)
    .next()
    .filter(({ event }) => event === 'trialEnded' || event === 'told')
  expect(told).toHaveLength(2 * size.trials)
  expect(listRuns(world.runsFolder).map(({ stage }) => stage.name)).toEqual([
    'first',
    ...Array.from({ length: size.trials }, () => 'second'),
  ])

  const report = await reportSweep(sweep, { importance: true }, world)
  const rate = report.ranking.best?.values.learningRate as number
  const { counts, saved, importance } = report
  console.log(`best rate ${rate}, counts ${JSON.stringify(counts)}, saved ${JSON.stringify(saved)}, ${JSON.stringify(importance)}`)
  expect(rate).toBeGreaterThan(1e-4)
  expect(rate).toBeLessThan(1e-1)
  expect(report.saved.prefixes).toBe(size.trials - 1)
  // The pruner may leave too few finished trials to tell.
  if (isFull && report.importance.method !== null)
    expect(Object.entries(report.importance.importance).sort(([, a], [, b]) => b - a)[0]?.[0]).toBe('learningRate')
})
