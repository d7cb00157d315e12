import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, vi } from 'vitest'
import { readConfigFile } from '../../../src/config/source.ts'
import { loadSweep } from '../../../src/config/sweep-file.ts'
import { slurmSettings } from '../../../src/domain/engine-choice.ts'
import { newestAttempt } from '../../../src/domain/run/state.ts'
import { rankSweep } from '../../../src/domain/sweep/ranking.ts'
import type { SlurmHandle } from '../../../src/engines/engine.ts'
import { stopRun } from '../../../src/runs/control.ts'
import { followSweep, startSweep, sweepFor } from '../../../src/runs/sweep/begin.ts'
import { driveSweep } from '../../../src/runs/sweep/driver.ts'
import type { RunsWorld } from '../../../src/runs/world.ts'
import { lockHolder } from '../../../src/store/lock.ts'
import { filesOf, findRun, type Run, readState } from '../../../src/store/runs.ts'
import { readSweepState, sweepFiles } from '../../../src/store/sweeps.ts'
import { tinyStages, tinyWorld } from '../../end-to-end/tiny-stages.ts'
import { fakeWorld, folderTest } from '../../runs/fake-world.ts'
import { madeSweep, ordered } from '../../runs/sweep/sweep-world.ts'
import { Cluster } from '../conformance/place.ts'

/*
 * A sweep on a cluster is the sweep of this machine: the same trials with the same losses, and the same one wins.
 */

vi.setConfig({ testTimeout: 90_000, hookTimeout: 60_000 })

const test = folderTest
const site = new Cluster()
const worlds: RunsWorld[] = []
const isFull = process.env.STAGEWRIGHT_FULL === '1'

describe.skipIf(site.missing !== undefined)(`a sweep on ${site.name}`, () => {
  beforeAll(site.start)
  afterAll(async () => {
    await site.stop()
    for (const { cwd } of worlds) rmSync(cwd, { recursive: true, force: true, maxRetries: 5 })
  })
  afterEach(() => site.box.clear())

  test('comes to the trials, the losses at equal steps and the winner of this machine', async ({ folder }) => {
    const [here, there] = ['here', 'there'].map((name) => join(folder, name))
    for (const place of [here, there]) mkdirSync(place ?? '')
    const outcomes = await Promise.all(
      [fakeWorld(here ?? '', { stepMs: 5 }), site.world(there ?? '', { stepMs: 5 })].map(async (world) => {
        const sweep = madeSweep(world, ordered(4))
        expect(await driveSweep(sweep.folder, world)).toMatchObject({ reason: 'budget' })
        return outcomeOf(readSweepState(sweep), world)
      }),
    )
    expect(outcomes[0]?.engines).toEqual(['local', 'local', 'local', 'local'])
    expect(outcomes[1]).toEqual({ ...outcomes[0], engines: ['slurm', 'slurm', 'slurm', 'slurm'] })
  })

  test('of known trials is sent in arrays, one after another, of which as many train at a time as the sweep says and single tasks are taken out', async ({
    folder,
  }) => {
    const world = site.world(folder, { stepMs: 10 })
    const sweep = madeSweep(world, { budget: { trials: 6 }, parallel: 3 })
    let most = 0
    let last: string | undefined
    const watch = setInterval(() => {
      const { trials } = readSweepState(sweep)
      most = Math.max(most, trials.filter(({ status }) => status === 'running').length)
      const run = trials[5]?.run
      if (most < 2 || last !== undefined || run === undefined) return
      last = run
      void stopRun(findRun(world.runsFolder, run), {}, world)
    }, 50)
    expect(await driveSweep(sweep.folder, world)).toMatchObject({ reason: 'budget' })
    clearInterval(watch)
    const { trials, points } = readSweepState(sweep)
    const ends = [...Array.from({ length: 5 }, () => 'done'), 'cancelled']
    expect(trials.map(({ status, retries }) => [status, retries])).toEqual(ends.map((end) => [end, {}]))
    expect(points.map(({ told }) => told?.state)).toEqual(ends.map((end) => (end === 'done' ? 'done' : 'failed')))
    const jobs = trials.map(({ run }) => jobIn(findRun(world.runsFolder, run ?? '')))
    const [first = '', second = ''] = [...new Set(jobs.map((job) => job.split('_')[0]))]
    expect(jobs).toEqual([...[0, 1, 2, 3].map((task) => `${first}_${task}`), ...[0, 1].map((task) => `${second}_${task}`)])
    const scripts = readdirSync(sweep.folder).filter((name) => name.endsWith('.sbatch'))
    const asked = scripts.map((name) => /^#SBATCH --array=(.*)$/m.exec(readFileSync(join(sweep.folder, name), 'utf8'))?.[1])
    expect(asked.sort()).toEqual(['0-1%3', '0-3%3'])
    expect(most).toBeGreaterThanOrEqual(2)
    expect(most).toBeLessThanOrEqual(3)
    expect(site.box.jobs()).toEqual([])
  })

  // A quarter of a minute of waiting.
  test.runIf(isFull)('whose driver is killed trains on in its array, and tasks that were preempted go on in it', async ({ folder }) => {
    const world = site.world(folder, { stepMs: 100 }, { detached: true })
    const sweep = madeSweep(world, { budget: { trials: 4 }, parallel: 2 })
    const drive = await startSweep(sweep, world)
    const runs = () => readSweepState(sweep).trials.map(({ run }) => findRun(world.runsFolder, run ?? ''))
    const isWaiting = (run: Run) => readState(run).attempts.at(-1)?.waited !== undefined
    await vi.waitFor(
      () => {
        const { trials } = readSweepState(sweep)
        expect(trials.filter(({ status }) => status === 'running')).toHaveLength(2)
        expect(runs().slice(2).map(isWaiting)).toEqual([true, true])
      },
      { timeout: 30_000, interval: 50 },
    )
    const [putBack, , takenOut] = runs()
    if (!putBack || !takenOut) throw new Error('expected four runs')
    await stopRun(takenOut, {}, world)
    const array = jobIn(putBack).split('_')[0]
    expect(site.box.run('squeue', '--array', '-h', '-j', array ?? '', '-o', '%i')).not.toContain(jobIn(takenOut))
    await vi.waitFor(() => expect(readSweepState(sweep).trials[2]?.status).toBe('cancelled'), { timeout: 10_000 })
    process.kill(lockHolder(sweepFiles(sweep.folder).lock)?.pid ?? 0, 'SIGKILL')
    site.box.run('sbatch', '-p', 'high', '-N2', '--exclusive', '--mem=10', '--output=/dev/null', '--wrap', 'sleep 1')
    await site.box.until(() => site.box.run('squeue', '-h', '-j', jobIn(putBack), '-o', '%T').trim() === 'PENDING', 'the task put back')
    expect(await startSweep(sweep, world)).toBe(drive + 1)
    for await (const _ of followSweep(sweep, drive + 1, world));

    const { trials, end } = readSweepState(sweep)
    expect([end?.reason, trials.map(({ status }) => status)]).toEqual(['budget', ['done', 'done', 'cancelled', 'done']])
    expect(trials.map(({ retries, attempt }) => [retries, attempt])).toEqual([1, 1, 0, 1].map((attempt) => [{}, attempt]))
    expect(trials.filter(({ status }) => status === 'done').map(({ reports }) => reports.at(-1)?.step)).toEqual([40, 40, 40])
    expect(readFileSync(filesOf(putBack.folder).trainer, 'utf8').match(/"attempt":1,"event":"ready"/g)).toHaveLength(2)
    expect(runs().map((run) => jobIn(run))).toEqual([0, 1, 2, 3].map((task) => `${array}_${task}`))
    expect(site.box.jobs()).toEqual([])
  })

  // Six starts of the real trainer take half a minute.
  test.runIf(isFull)('of the real trainer has the losses of this machine bit for bit', { timeout: 280_000 }, async () => {
    const engine = { formatVersion: 1, kind: 'slurm', slurm: slurmSettings.parse({ memory: '100M' }) } as const
    const there = tinyWorld({ env: { ...site.box.env, STAGEWRIGHT_SLURM_POLL_SECONDS: '0.3' }, engine })
    const here = tinyWorld()
    worlds.push(there.world, here.world)
    const outcomes = await Promise.all(
      [here, there].map(async ({ world }) => {
        const sweep = sweepFor(loadSweep(realSweep(world.cwd), { readFile: readConfigFile, data: here.data }), {}, world)
        expect(await driveSweep(sweep.folder, world)).toMatchObject({ reason: 'budget' })
        const state = readSweepState(sweep)
        const trained = state.trials.map(({ run, step }) => {
          const points = readState(findRun(world.runsFolder, run ?? '')).points
          return points.filter((point) => point.step <= (step ?? 0)).map((point) => [point.step, point.loss])
        })
        return { ...outcomeOf(state, world), trained }
      }),
    )
    const [local, cluster] = outcomes
    expect(local?.trained.filter((losses) => losses.length >= 3).length).toBeGreaterThanOrEqual(3)
    expect(cluster).toEqual({ ...local, engines: local?.engines.map(() => 'slurm') })
    console.log(`winner ${local?.winner} on both; held-out losses ${JSON.stringify(local?.losses)}`)
  })
})

function realSweep(folder: string): string {
  const { vae } = tinyStages.first
  const first = { ...tinyStages.first, vae: { ...vae, weights: 'random' }, steps: 4, batch: { perDevice: 2, accumulate: 1 } }
  const second = { ...first, name: 'second', init: { weights: 'stage:first', use: 'raw' }, steps: 9 }
  writeFileSync(join(folder, 'tiny.yaml'), JSON.stringify({ formatVersion: 1, name: 'tiny', stages: [first, second] }))
  const sweep = {
    formatVersion: 1,
    name: 'tiny',
    recipe: 'tiny.yaml',
    stage: 'second',
    space: {
      learningRate: { min: 1e-6, max: 1, log: true },
      trainable: { values: [['all'], ['all', '-blocks[0:2]']] },
      'ema.decay': { values: [0.5, 0.9] },
    },
    budget: { trials: 6 },
    sampler: { name: 'tpe', seed: 3, startup: 3 },
    pruner: { name: 'asha', warmupSteps: 3, reduction: 3 },
    deterministic: true,
    parallel: 2,
  }
  writeFileSync(join(folder, 'sweep.yaml'), JSON.stringify(sweep))
  return join(folder, 'sweep.yaml')
}

/** Number of a run's job. */
const jobIn = (run: Run) => (newestAttempt(readState(run))?.handle as SlurmHandle | undefined)?.jobId ?? ''

type State = ReturnType<typeof readSweepState>

/** What two places must have in common, and where the trials were trained. */
function outcomeOf(state: State, { runsFolder }: RunsWorld) {
  return {
    trials: state.trials.map(({ values, status, reports }) => [values, status, reports.filter(({ prune }) => prune).length]),
    losses: state.trials.map(({ reports }) => reports.map(({ step, value }) => [step, value])),
    winner: rankSweep(state).best?.point,
    engines: state.trials.map(({ run }) => readState(findRun(runsFolder, run ?? '')).attempts.at(-1)?.engine),
  }
}
