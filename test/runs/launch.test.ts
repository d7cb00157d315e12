import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, vi } from 'vitest'
import { processesWhere } from '../../src/engines/process-identity.ts'
import { attach } from '../../src/runs/attach.ts'
import { stopRun } from '../../src/runs/control.ts'
import { continueRun, prepareRun } from '../../src/runs/launch.ts'
import { supervise } from '../../src/runs/supervise.ts'
import { isSupervised } from '../../src/runs/supervisor-lock.ts'
import type { RunsWorld } from '../../src/runs/world.ts'
import { lockHolder } from '../../src/store/lock.ts'
import { filesOf, type Run, readState } from '../../src/store/runs.ts'
import { fakeWorld, folderTest, followed, launched, sideOf, until } from './fake-world.ts'

// On a busy machine processes take their time to start.
vi.setConfig({ testTimeout: 60_000, maxConcurrency: 4 })

const test = folderTest
const endOf = async (run: Run, world: RunsWorld, fromAttempt = 1) => (await followed(run, world, fromAttempt)).at(-1)?.event
const reasons = (run: Run) => readState(run).attempts.map(({ end }) => end?.reason)

const ranksOf = (run: Run) => ({ runFolder: run.folder, attempt: 1, engine: 'local' })

async function untilLeft(run: Run): Promise<void> {
  while (isSupervised(run)) await sleep(20)
}

describe.concurrent('starting', () => {
  test('a run that was prepared and never started begins with continue', async ({ folder }) => {
    const world = fakeWorld(folder, { stepMs: 1 })
    const { run } = await prepareRun(sideOf(), { verb: 'train' }, world)
    expect(await continueRun(run, world)).toMatchObject({ verb: 'continue', from: 'the start: there is no checkpoint' })
    expect(await endOf(run, world)).toMatchObject({ event: 'ended', attempt: 1, reason: 'completed' })
  })

  test('two that continue at once start one attempt', async ({ folder }) => {
    const world = fakeWorld(folder, { stepMs: 1, dies: { step: 5, how: 'exit' } })
    const run = await launched(world)
    await followed(run, world)
    await untilLeft(run)
    const both = await Promise.allSettled([continueRun(run, world), continueRun(run, world)])
    expect(both.filter(({ status }) => status === 'fulfilled').length).toBeGreaterThan(0)
    await followed(run, world, 2)
    const supervisors = () => processesWhere((words) => words.includes('_supervise') && words.includes(run.folder))
    while (supervisors().length > 0) await sleep(50)
    expect(reasons(run)).toEqual(['failed', 'completed'])
  })

  test('a second supervisor leaves a run to the first, and starts nothing that has been started', async ({ folder }) => {
    const world = fakeWorld(folder)
    const run = await launched(world, { steps: 300 })
    expect(await supervise(run.folder, world, { attempt: undefined })).toBeUndefined()
    await followed(run, world)
    await untilLeft(run)
    expect(await supervise(run.folder, world, { attempt: 1 })).toBeUndefined()
    expect(reasons(run)).toEqual(['completed'])
  })

  test('a run whose supervisor died still trains: it is not continued', async ({ folder }) => {
    const world = fakeWorld(folder)
    const run = await launched(world, { steps: 5000 })
    process.kill(lockHolder(filesOf(run.folder).lock)?.pid ?? 0, 'SIGKILL')
    await expect(continueRun(run, world)).rejects.toMatchObject({ code: 'RUN_ACTIVE' })
    await stopRun(run, {}, world)
    expect(await endOf(run, world)).toMatchObject({ reason: 'stopped' })
  })

  test('commands an earlier attempt left do not reach the next', async ({ folder }) => {
    const world = fakeWorld(folder, { stepMs: 1, dies: { step: 5, how: 'kill' } })
    const run = await launched(world)
    await followed(run, world)
    await untilLeft(run)
    writeFileSync(join(filesOf(run.folder).commands, 'late.json'), JSON.stringify({ id: 'late', name: 'stop', by: 'me' }))
    await continueRun(run, world)
    expect(await endOf(run, world, 2)).toMatchObject({ reason: 'completed' })
  })
})

describe.concurrent('before the trainer has said a word', () => {
  test('a stop waits for it', async ({ folder }) => {
    const world = fakeWorld(folder, { startMs: 1500 })
    const run = await launched(world, { steps: 5000 })
    expect(readState(run).attempts[0]?.socket).toBeUndefined()
    await stopRun(run, { reason: 'Ctrl-C' }, world)
    expect(await endOf(run, world)).toMatchObject({ reason: 'stopped', exitCode: 0 })
    expect(readState(run).step).toBeLessThan(300)
  })

  test('a kill leaves nothing behind', async ({ folder }) => {
    const world = fakeWorld(folder, { startMs: 60_000 })
    const run = await launched(world, { parallel: { processes: 2 } })
    while (world.engine.ranks(ranksOf(run)).length < 2) await sleep(20)
    await stopRun(run, { kill: true }, world)
    expect(await endOf(run, world)).toMatchObject({ reason: 'killed', message: expect.stringContaining('killed by ') })
    expect(world.engine.ranks(ranksOf(run))).toEqual([])
  })
})

describe.concurrent('an attempt ends', () => {
  for (const [how, expected] of [
    ['segfault', { reason: 'killed', signal: 'SIGSEGV', message: 'killed by SIGSEGV after step 4' }],
    ['exit', { reason: 'failed', message: 'a rank ended without a word after step 4 (exit code 1)' }],
    ['bug', { reason: 'failed', message: 'ZeroDivisionError: division by zero [TRAINER_BUG]' }],
  ] as const) {
    test(`with ${how}`, async ({ folder }) => {
      const world = fakeWorld(folder, { stepMs: 1, dies: { step: 5, how } })
      const run = await launched(world)
      expect(await endOf(run, world)).toMatchObject({ event: 'ended', ...expected })
      expect(readFileSync(filesOf(run.folder).log(1), 'utf8')).toContain(`about to ${how}`)
    })
  }

  test('with what another rank failed with', async ({ folder }) => {
    const world = fakeWorld(folder, { dies: { step: 5, how: 'rank' } })
    const run = await launched(world, { steps: 5000, parallel: { processes: 2 } })
    expect(await endOf(run, world)).toMatchObject({ reason: 'out-of-memory', message: 'rank 1 asked for 3 GiB [OUT_OF_MEMORY]' })
    expect(world.engine.ranks(ranksOf(run))).toEqual([])
  })

  test('by kill alone where it hangs', async ({ folder }) => {
    const world = fakeWorld(folder, { dies: { step: 5, how: 'hang' } })
    const run = await launched(world)
    await until(run, world, 'step', 4)
    await stopRun(run, { kill: true }, world)
    expect(await endOf(run, world)).toMatchObject({ reason: 'killed', step: 4 })
  })
})

test.concurrent('whoever leaves a run does not end it', async ({ folder }) => {
  const world = fakeWorld(folder)
  const run = await launched(world, { steps: 5000 })
  const leaving = new AbortController()
  for await (const { event } of attach(run, world, { signal: leaving.signal })) if (event.event === 'step') leaving.abort()
  expect(readState(run).attempts[0]?.end).toBeUndefined()
  await stopRun(run, {}, world)
  expect(await endOf(run, world)).toMatchObject({ reason: 'stopped' })
})
