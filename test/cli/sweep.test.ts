import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, vi } from 'vitest'
import { findSweep, readSweepState } from '../../src/store/sweeps.ts'
import { folderTest } from '../runs/fake-world.ts'
import { writtenSweep } from '../runs/sweep/sweep-world.ts'

const program = join(import.meta.dirname, '../../bin/stagewright.mjs')
// On a busy machine processes take their time to start.
vi.setConfig({ testTimeout: 90_000 })

interface Ended {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

const test = folderTest.extend<{ command: (...args: string[]) => Promise<Ended> }>({
  command: async ({ folder }, use) => {
    const env = {
      ...process.env,
      NO_COLOR: '1',
      XDG_RUNTIME_DIR: folder,
      STAGEWRIGHT_PYTHON_ENV: join(import.meta.dirname, '../fake-trainer/python'),
      STAGEWRIGHT_SOURCES: '1',
      FAKE_TRAINER: '{"stepMs":1}',
    }
    await use((...args) => {
      const child = spawn(process.execPath, [program, ...args], { cwd: folder, env, stdio: ['ignore', 'pipe', 'pipe'] })
      const said = { stdout: '', stderr: '' }
      for (const stream of ['stdout', 'stderr'] as const)
        child[stream].on('data', (chunk) => {
          said[stream] += chunk
        })
      return new Promise((resolve) => child.once('close', (code) => resolve({ code, ...said })))
    })
  },
})

const grid = { space: { learningRate: { values: [1e-3, 1e-2] } }, sampler: { name: 'grid' }, budget: {} }

describe('stagewright sweep', () => {
  test('prints with --dry-run what a cluster would be sent, and begins nothing', async ({ folder, command }) => {
    const many = {
      space: { learningRate: { min: 1e-4, max: 1e-2, log: true, points: 7 } },
      sampler: { name: 'grid' },
      budget: {},
      parallel: 3,
    }
    writtenSweep(folder, many)
    const [sent, alone] = await Promise.all([
      command('sweep', 'rates.yaml', '--dry-run', '--engine', 'slurm', '--slurm', 'partition=gpu'),
      command('sweep', 'rates.yaml', '--dry-run'),
    ])
    expect([sent.code, sent.stderr]).toEqual([0, ''])
    expect(sent.stdout).toContain('#SBATCH --array=0-6%3')
    expect(sent.stdout.match(/#SBATCH --partition=gpu/g)).toHaveLength(3)
    expect(sent.stdout.match(/DATE-TIME-second-000\d\/attempt-1.sbatch$/gm)).toHaveLength(7)
    expect(alone.stdout).not.toContain('SBATCH')
    expect(alone.stdout.match(/-m osplan train/g)).toHaveLength(2)
    expect(existsSync(join(folder, 'runs'))).toBe(false)
  })

  test('trains, ranks, and shows the same afterwards as text, JSON, Markdown and CSV', async ({ folder, command }) => {
    writtenSweep(folder, grid)
    const done = await command('sweep', 'rates.yaml')
    expect(done.stderr).toBe('')
    expect([done.code, done.stdout]).toEqual([
      0,
      expect.stringMatching(
        /trial 0: learningRate=0\.001[\s\S]*trial 1: done, 1\.025 at step 40[\s\S]*completed: the whole grid, 2 trials/,
      ),
    ])
    expect(done.stdout).toMatch(/1 +0 +0\.025 +\(± 0\.01\) +done +learningRate 0\.001/)
    expect(done.stdout).toMatch(/2 +1 +1\.025 .* learningRate 0\.001 → 0\.01 ×10/)
    expect(done.stdout).toContain('saved 20 steps')

    const [json, markdown, csv, list] = await Promise.all([
      command('sweep', 'show', 'rates', '--json'),
      command('sweep', 'show', 'rates', '--markdown'),
      command('sweep', 'show', 'latest', '--csv'),
      command('sweep', 'show'),
    ])
    expect(JSON.parse(json.stdout)).toMatchObject({
      formatVersion: 1,
      status: 'completed',
      counts: { done: 2 },
      spent: { trials: 2, steps: 100 },
      saved: { prefixes: 1, steps: 20 },
      best: { point: 0, rank: 1, value: 0.025 },
      points: [
        { against: [] },
        { isNoise: false, against: [{ path: 'learningRate', before: 0.001, after: 0.01, ratio: 10, impact: 'live' }] },
      ],
    })
    expect(markdown.stdout).toContain('| 2 | 1 | 1.025 | (± 0.01) | done | learningRate 0.001 → 0.01 ×10 |')
    expect(csv.stdout.split('\n')[0]).toMatch(
      /^trial,point,rank,seed,status,class,run,step,loss,standardError,deviceSeconds,steps,learningRate$/,
    )
    expect(csv.stdout.trim().split('\n')).toHaveLength(3)
    expect(list.stdout).toMatch(/-rates-[0-9a-f]{4} +second +completed +2 +0\.025/)

    const again = await command('sweep', 'rates.yaml', '--json')
    expect(JSON.parse(again.stdout)).toMatchObject({ spent: { trials: 2 }, best: { point: 0 } })
  })

  test('plans trials, duplicates and points that are no stage', async ({ folder, command }) => {
    writtenSweep(folder, {
      ...grid,
      space: { 'batch.perDevice': { values: [2, 4, 4, 3] } },
      constraints: ['batch.perDevice % 2 == 0'],
      seeds: [1, 2],
    })
    const { code, stdout } = await command('sweep', 'plan', 'rates.yaml', '--json')
    expect(code).toBe(1)
    expect(JSON.parse(stdout)).toMatchObject({
      formatVersion: 1,
      prefix: ['first'],
      points: { looked: 4, feasible: 3, isWhole: true },
      infeasible: [{ reason: 'batch.perDevice % 2 == 0 does not hold', points: 1 }],
      duplicates: 1,
      trials: 6,
      stepsPerTrial: 40,
      steps: 260,
      hours: null,
    })
  })

  test('detached, is stopped by its name and gone on with by its file', async ({ folder, command }) => {
    writtenSweep(folder, { ...grid, space: { learningRate: { values: [1e-3, 1e-2, 1e-1, 1e-4] } } })
    expect((await command('sweep', 'rates.yaml', '--detach')).code).toBe(0)
    const stopped = await command('sweep', 'stop', 'rates')
    expect([stopped.code, stopped.stdout]).toEqual([0, expect.stringContaining('has stopped')])
    expect(readSweepState(findSweep(join(folder, 'runs'), 'rates')).end?.reason).toBe('stopped')
    expect((await command('sweep', 'rates.yaml')).code).toBe(0)
    expect(readSweepState(findSweep(join(folder, 'runs'), 'rates')).trials.map(({ status }) => status)).toEqual([
      'done',
      'done',
      'done',
      'done',
    ])
  })

  test('refuses what it cannot do with what to do instead', async ({ folder, command }) => {
    writtenSweep(folder, { ...grid, stage: 'secnd' })
    const [unknown, missing, none] = await Promise.all([
      command('sweep', 'rates.yaml'),
      command('sweep', 'nowhere.yaml'),
      command('sweep', 'show', 'rates'),
    ])
    expect([unknown.code, unknown.stderr]).toEqual([2, expect.stringContaining('did you mean `second`?')])
    expect([missing.code, missing.stderr]).toEqual([2, expect.stringContaining('[CONFIG_FILE]')])
    expect([none.code, none.stderr]).toEqual([2, expect.stringContaining('[SWEEP_UNKNOWN]')])
  })

  test('has a script that suggests, observes, stops and branches', async ({ folder, command }) => {
    writtenSweep(folder)
    const script = join(import.meta.dirname, '../../configs/scripts/sweep.ts')
    const { code, stdout, stderr } = await command('script', script, 'two.yaml', 'second', 'two.yaml', '2')
    expect([code, stdout], stderr).toEqual([
      0,
      expect.stringMatching(/trial 0: (done|cancelled)[\s\S]*trial 1: [\s\S]*branch of trial \d: /),
    ])
  })
})
