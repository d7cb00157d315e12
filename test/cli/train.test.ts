import { type ChildProcess, spawn } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, vi } from 'vitest'
import { endOf, newestAttempt } from '../../src/domain/run/state.ts'
import { listChains } from '../../src/store/chains.ts'
import { findRun, listRuns, type Run, readState } from '../../src/store/runs.ts'
import { fakeWorld, folderTest, followed } from '../runs/fake-world.ts'

const program = join(import.meta.dirname, '../../bin/stagewright.mjs')
const recipe = `
formatVersion: 1
name: small
stages:
  - { name: one, kind: vae, objective: { name: reconstruction }, steps: 30 }
  - { name: two, kind: vae, extends: one, init: { weights: 'stage:one' } }
  - { name: long, kind: vae, extends: one, steps: 100000 }
`

// On a busy machine processes take their time to start.
vi.setConfig({ testTimeout: 60_000, maxConcurrency: 3 })

/** Each has processes of its own and mostly waits for them. */
const test = folderTest.extend<{ command: (...args: string[]) => Command; latest: () => Run }>({
  command: async ({ folder }, use) => {
    writeFileSync(join(folder, 'r.yaml'), recipe)
    await use((...args) => new Command(folder, args))
  },
  latest: async ({ folder }, use) => use(() => findRun(join(folder, 'runs'), 'latest')),
})

/** The program with the fake trainer; its output so far and how to wait for some. */
class Command {
  readonly child: ChildProcess
  output = ''

  constructor(folder: string, args: string[]) {
    const env = {
      ...process.env,
      XDG_RUNTIME_DIR: folder,
      STAGEWRIGHT_PYTHON_ENV: join(import.meta.dirname, '../fake-trainer/python'),
      STAGEWRIGHT_SOURCES: '1',
    }
    this.child = spawn(process.execPath, [program, ...args], { cwd: folder, env, stdio: ['ignore', 'pipe', 'pipe'] })
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream?.on('data', (chunk) => {
        this.output += chunk
      })
    }
  }

  async until(text: RegExp): Promise<void> {
    while (!text.test(this.output)) {
      if (this.child.exitCode !== null) throw new Error(`ended without ${text}: ${this.output}`)
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  }

  async code(): Promise<number | string | null> {
    if (this.child.exitCode === null && this.child.signalCode === null) await new Promise((resolve) => this.child.once('close', resolve))
    return this.child.exitCode ?? this.child.signalCode
  }
}

describe('Ctrl-C in train', () => {
  test.concurrent('once stops with a checkpoint, also before the trainer is there', async ({ command, latest }) => {
    const train = command('train', 'r.yaml#long')
    await train.until(/^run /m)
    train.child.kill('SIGINT')
    expect(await train.code()).toBe(130)
    expect(train.output).toContain('stopping at the next step, with a checkpoint; Ctrl-C again kills')
    expect(endOf(readState(latest()))?.reason).toBe('stopped')
  })

  test.concurrent('twice kills', async ({ command, latest }) => {
    const train = command('train', 'r.yaml#long')
    await train.until(/long 50\//)
    process.kill(newestAttempt(readState(latest()))?.pids[0] ?? 0, 'SIGSTOP')
    train.child.kill('SIGINT')
    await train.until(/again kills/)
    train.child.kill('SIGINT')
    expect(await train.code()).toBe(130)
    expect(endOf(readState(latest()))).toMatchObject({ reason: 'killed' })
  })
})

test.concurrent('a closed terminal stops nothing; attach follows again and Ctrl-C there only leaves', async ({
  folder,
  command,
  latest,
}) => {
  const train = command('train', 'r.yaml#long')
  await train.until(/long 50\//)
  train.child.kill('SIGHUP')
  expect(await train.code()).toBe('SIGHUP')
  const attach = command('attach', 'latest')
  await attach.until(/long 100\//)
  attach.child.kill('SIGINT')
  await attach.code()
  expect(attach.output).toContain(`it goes on. Come back with: stagewright attach ${latest().id}`)
  expect(endOf(readState(latest()))).toBeUndefined()
  const set = command('set', 'latest', 'learningRate=1e-4', '--json')
  expect(await set.code()).toBe(0)
  const changes = [{ path: 'learningRate', effective: 1e-4, fromStep: expect.any(Number) }]
  expect(JSON.parse(set.output)).toEqual({ formatVersion: 1, run: latest().id, command: 'set', changes })
  const stop = command('stop', 'latest', '--why', 'enough')
  expect([await stop.code(), stop.output]).toEqual([0, `${latest().id}: stops at the next step\n`])
  await followed(latest(), fakeWorld(folder))
  const show = command('show', 'latest', '--json')
  expect(await show.code()).toBe(0)
  expect(JSON.parse(show.output)).toMatchObject({ formatVersion: 1, run: { id: latest().id }, end: { reason: 'stopped' } })
})

test.concurrent('--detach returns at once and names the command to follow with', async ({ folder, command, latest }) => {
  const train = command('train', 'r.yaml#one', '--detach')
  expect(await train.code()).toBe(0)
  expect(train.output).toContain(`stagewright attach ${latest().id}`)
  expect((await followed(latest(), fakeWorld(folder))).at(-1)?.event).toMatchObject({ event: 'ended', reason: 'completed' })
  const runs = command('runs', '--json')
  expect(await runs.code()).toBe(0)
  expect(JSON.parse(runs.output)).toMatchObject({ formatVersion: 1, runs: [{ id: latest().id, state: 'completed', step: 30, steps: 30 }] })
})

test.concurrent('a recipe trains stage after stage from the weights before; a second call finds the finished ones', async ({
  command,
  latest,
}) => {
  const first = command('train', 'r.yaml', '--until', 'two')
  expect(await first.code()).toBe(0)
  const run = latest()
  expect(run.identity).toMatchObject({ stage: 'two', parent: { step: 30, use: 'ema' } })
  const second = command('train', 'r.yaml', '--until', 'two')
  expect(await second.code()).toBe(0)
  expect(second.output).toContain(`two: done already by ${run.id}`)
  expect(latest().id).toBe(run.id)
  const alone = command('train', 'r.yaml#two', '--set', 'steps=2')
  expect([await alone.code(), alone.output]).toEqual([0, expect.stringContaining('completed')])
  expect([latest().stage.steps, latest().identity.parent]).toEqual([2, run.identity.parent])
  const edited = command('train', 'r.yaml#two', '--set', 'one:steps=29')
  expect([await edited.code(), edited.output]).toEqual([2, expect.stringContaining('expected a finished run of stage one as it is now')])
})

test.concurrent('a chain outlives the terminal it was started from, stops on Ctrl-C in the next, and goes on by its id', async ({
  folder,
  command,
}) => {
  const chainIn = () => listChains(join(folder, 'runs')).at(-1)?.id ?? ''
  const train = command('train', 'r.yaml', '--set', 'one:steps=20', '--set', 'two:steps=100000')
  await train.until(/^chain /m)
  await train.until(/one 20\//)
  train.child.kill('SIGHUP')
  await train.code()
  const again = command('train', 'r.yaml', '--set', 'one:steps=20', '--set', 'two:steps=100000')
  await again.until(/two 50\//)
  again.child.kill('SIGINT')
  expect(await again.code()).toBe(130)
  expect(again.output).toContain(`chain ${chainIn()}`)
  expect(again.output).toContain(`${chainIn()}: stopped`)
  const show = command('show', chainIn(), '--json')
  expect(await show.code()).toBe(0)
  expect(JSON.parse(show.output)).toMatchObject({ formatVersion: 1, state: 'stopped', stages: [{ stage: 'one' }, { stage: 'two' }] })
  const detached = command('continue', chainIn(), '--detach')
  expect(await detached.code()).toBe(0)
  const attach = command('attach', chainIn())
  await attach.until(/two: goes on with .*broken off/)
  const stop = command('stop', chainIn())
  expect(await stop.code()).toBe(0)
  expect(await attach.code()).toBe(0)
  expect(attach.output).toContain(`${chainIn()}: stopped`)
})

test.concurrent('the script that ships trains a stage at two learning rates and takes finished runs again', async ({ folder, command }) => {
  const script = join(import.meta.dirname, '../../configs/scripts/learning-rates.ts')
  mkdirSync(join(folder, 'clips'))
  const first = command('script', script, 'r.yaml#one', 'clips', '1e-3,3e-4')
  expect([await first.code(), first.output]).toEqual([0, expect.stringMatching(/completed[\s\S]*0.001 {2}held-out loss/)])
  const runs = listRuns(join(folder, 'runs'))
  expect(runs.map(({ stage }) => stage.learningRate)).toEqual([1e-3, 3e-4])
  const second = command('script', script, 'r.yaml#one', 'clips', '3e-4,1e-3')
  expect(await second.code()).toBe(0)
  expect(listRuns(join(folder, 'runs'))).toHaveLength(2)
})

test.concurrent('clips that are not there are refused, and no run is made of them', async ({ command, folder }) => {
  const train = command('train', 'r.yaml', '--data', 'nowhere')
  expect([await train.code(), train.output]).toEqual([2, expect.stringMatching(/--data nowhere: expected .* \[DATA_MISSING\]\nhint: /)])
  expect(listRuns(join(folder, 'runs'))).toEqual([])
})

test.concurrent('a Python that is not there is refused before anything starts', async ({ command }) => {
  const train = command('train', 'r.yaml#one', '--python-env', '/nowhere')
  expect(await train.code()).toBe(2)
  expect(train.output).toContain('PYTHON_MISSING')
})

test.concurrent('a stage this trainer cannot train is refused with 2, and no run is made of it', async ({ command, folder }) => {
  mkdirSync(join(folder, 'clips'))
  for (const stage of ['v1.0.0/class-train_imgae', 'v1.2/udit-1-image240p']) {
    const train = command('train', stage, '--tiny', '--data', 'clips')
    expect(await train.code()).toBe(2)
    expect(train.output).toMatch(/expected one of .* \[KIND_UNTRAINABLE\]\nhint: this trainer cannot train it/)
  }
  writeFileSync(join(folder, 'c.yaml'), `${recipe}  - { name: odd, kind: vae, extends: one, memory: { compile: blocks } }\n`)
  const chain = command('train', 'c.yaml')
  expect([await chain.code(), chain.output]).toEqual([2, expect.stringContaining('SETTING_UNSUPPORTED')])
  expect([listRuns(join(folder, 'runs')), listChains(join(folder, 'runs'))]).toEqual([[], []])
})
