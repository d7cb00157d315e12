import { readFileSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, vi } from 'vitest'
import type { RunEvent } from '../../src/domain/run/state.ts'
import { endOf, newestAttempt } from '../../src/domain/run/state.ts'
import type { LocalHandle } from '../../src/engines/engine.ts'
import { identityOf, isAlive } from '../../src/engines/process-identity.ts'
import { attach } from '../../src/runs/attach.ts'
import { sendCommand, stopRun } from '../../src/runs/control.ts'
import { branchRun, continueRun, prepareRun, startRun } from '../../src/runs/launch.ts'
import { settledState } from '../../src/runs/supervise.ts'
import { isSupervised } from '../../src/runs/supervisor-lock.ts'
import { runsWorldOf } from '../../src/runs-world.ts'
import { SupervisorJournal } from '../../src/store/journal.ts'
import { lockHolder } from '../../src/store/lock.ts'
import { filesOf, listRuns, type Run, readState } from '../../src/store/runs.ts'
import { fakeWorld, folderTest, followed, launched, pathsOf, sideOf, until } from './fake-world.ts'

// On a busy machine processes take their time to start.
vi.setConfig({ testTimeout: 60_000, maxConcurrency: 3 })

/** Each has processes of its own and mostly waits for them. */
const test = folderTest

const stepsOf = (events: readonly RunEvent[]) => events.flatMap(({ event }) => (event.event === 'step' ? [event.step] : []))
const upTo = (last: number) => Array.from({ length: last }, (_, index) => index + 1)
const handleOf = (run: Run) => newestAttempt(readState(run))?.handle as LocalHandle

async function killSupervisor(run: Run): Promise<void> {
  const holder = lockHolder(filesOf(run.folder).lock)
  expect(holder).toBeDefined()
  process.kill(holder?.pid ?? 0, 'SIGKILL')
  while (isSupervised(run)) await sleep(20)
}

describe('a run from its start to its end', () => {
  test.concurrent('is followed by two readers, each of which sees every event once and the end last', async ({ folder }) => {
    const world = fakeWorld(folder)
    const run = await launched(world, { checkpoint: { everySteps: 20 }, parallel: { processes: 2 } })
    const early = followed(run, world)
    await until(run, world, 'step', 10)
    const [first, late] = await Promise.all([early, followed(run, world)])
    expect(stepsOf(first)).toEqual(upTo(40))
    expect(stepsOf(late)).toEqual(upTo(40))
    expect(first.at(-1)?.event).toMatchObject({ event: 'ended', reason: 'completed', exitCode: 0, step: 40 })
    const state = readState(run)
    expect(state.checkpoints.map(({ step }) => step)).toEqual([20, 40])
    expect(state.points[6]?.loss).toBeNaN()
    expect(isAlive(handleOf(run).process)).toBe(false)
    await expect(continueRun(run, world)).rejects.toMatchObject({ code: 'RUN_COMPLETE' })
  })

  test.concurrent('a change acts from a step on and is journaled; a refused one is an error; a stop ends with a checkpoint', async ({
    folder,
  }) => {
    const world = fakeWorld(folder)
    const run = await launched(world, { steps: 5000 })
    await until(run, world, 'step', 3)
    const { step, effective } = await sendCommand(run, { name: 'set', path: 'learningRate', value: 0.5 }, world)
    expect(effective).toBe(0.5)
    await expect(sendCommand(run, { name: 'set', path: 'learningRate', value: 'much' }, world)).rejects.toMatchObject({
      code: 'COMMAND_REFUSED',
    })
    await expect(sendCommand(run, { name: 'set', path: 'batch.perDevice', value: 2 }, world)).rejects.toMatchObject({ code: 'NOT_LIVE' })
    await expect(sendCommand(run, { name: 'sample', reason: null }, world)).rejects.toMatchObject({ code: 'SAMPLE_PROMPTS' })
    await stopRun(run, { reason: 'enough' }, world)
    const state = await until(run, world, 'ended').then(() => readState(run))
    expect(state.changes).toMatchObject([{ step, path: 'learningRate', effective: 0.5, by: world.actor }])
    expect(state.points.find((point) => point.step === step)?.learningRate).toBe(0.5)
    expect(state.points.find((point) => point.step === step - 1)?.learningRate).toBe(1e-4)
    expect(endOf(state)?.reason).toBe('stopped')
    expect(state.checkpoints.at(-1)?.step).toBe(state.step)
    await expect(stopRun(run, {}, world)).rejects.toMatchObject({ code: 'RUN_NOT_ACTIVE' })
  })

  test.concurrent('commands go as files where the socket cannot be reached', async ({ folder }) => {
    const world = fakeWorld(folder, { withoutSocket: true })
    const run = await launched(world, { steps: 5000 })
    await until(run, world, 'step', 3)
    await stopRun(run, { after: 60 }, world)
    const end = (await followed(run, world)).at(-1)?.event
    expect(end).toMatchObject({ event: 'ended', reason: 'stopped' })
    expect(readState(run).step).toBeGreaterThanOrEqual(60)
  })
})

describe('when a process is killed', () => {
  test.concurrent('the supervisor: training goes on, and whoever attaches next adopts the run and records its end', async ({ folder }) => {
    const world = fakeWorld(folder)
    const run = await launched(world, { steps: 200 })
    await until(run, world, 'step', 3)
    await killSupervisor(run)
    const events = await followed(run, world)
    expect(stepsOf(events)).toEqual(upTo(200))
    expect(events.map(({ event }) => event.event)).toContain('adopted')
    expect(events.at(-1)?.event).toMatchObject({ event: 'ended', reason: 'completed', exitCode: 0 })
    expect(isSupervised(run)).toBe(false)
  })

  test.concurrent('the supervisor, and nobody attaches: the next look at the run settles it', async ({ folder }) => {
    const world = fakeWorld(folder)
    const run = await launched(world, { steps: 60 })
    await killSupervisor(run)
    const { process: launcher } = handleOf(run)
    while (isAlive(launcher)) await sleep(50)
    expect(endOf(readState(run))).toBeUndefined()
    const [state] = await Promise.all([settledState(run, world), settledState(run, world)])
    expect(endOf(state)?.reason ?? endOf(readState(run))?.reason).toBe('completed')
    const ends = readFileSync(filesOf(run.folder).supervisor, 'utf8').match(/"event":"ended"/g)
    expect(ends).toHaveLength(1)
  })

  test.concurrent('the supervisor, before it could start anything: the attempt is lost and the run can be continued', async ({
    folder,
  }) => {
    const world = fakeWorld(folder, { stepMs: 1 })
    const { run } = await prepareRun(sideOf(), { verb: 'train' }, world)
    const journal = new SupervisorJournal(filesOf(run.folder).supervisor)
    journal.append(1, { event: 'attempt', engine: 'local', handle: null, command: [], continuesFrom: null })
    journal.close()
    expect((await followed(run, world)).at(-1)?.event).toMatchObject({ event: 'ended', reason: 'lost' })
    await continueRun(run, world)
    expect((await followed(run, world, 2)).at(-1)?.event).toMatchObject({ event: 'ended', attempt: 2, reason: 'completed' })
  })

  test.concurrent('the supervisor, before it wrote down what it started: the job is found again', async ({ folder }) => {
    const world = fakeWorld(folder)
    const run = await launched(world, { steps: 5000 })
    await killSupervisor(run)
    const lines = readFileSync(filesOf(run.folder).supervisor, 'utf8').split('\n')
    writeFileSync(filesOf(run.folder).supervisor, `${lines.filter((line) => !line.includes('"handle":{')).join('\n')}`)
    expect(newestAttempt(readState(run))?.handle).toBeNull()
    await stopRun(run, { after: 100 }, world)
    expect((await followed(run, world)).at(-1)?.event).toMatchObject({ event: 'ended', reason: 'stopped', exitCode: 0 })
  })

  test.concurrent('the trainer, in the middle of a line: the end names the signal, and continue does the lost steps again', async ({
    folder,
  }) => {
    const world = fakeWorld(folder, { dies: { step: 25, how: 'torn' } })
    const run = await launched(world, { checkpoint: { everySteps: 20 } })
    const first = await followed(run, world)
    expect(first.at(-1)?.event).toMatchObject({ event: 'ended', reason: 'killed', signal: 'SIGKILL', exitCode: 1 })
    expect(readState(run).step).toBe(24)
    const handOff = await continueRun(run, world)
    expect(handOff.from).toBe('step 20')
    const second = await followed(run, world, 2)
    expect(stepsOf(second)).toEqual([...upTo(24), ...upTo(40).slice(20)])
    expect(second.at(-1)).toMatchObject({ attempt: 2, event: { event: 'ended', reason: 'completed' } })
    expect(readState(run).points.map(({ step }) => step)).toEqual(upTo(40))
    expect(readState(run).attempts.map(({ end }) => end?.reason)).toEqual(['killed', 'completed'])
  })

  test.concurrent('the launcher: its ranks end with a checkpoint, and so says the end', async ({ folder }) => {
    const world = fakeWorld(folder)
    const run = await launched(world, { steps: 5000 })
    await until(run, world, 'step', 3)
    process.kill(-handleOf(run).process.pid, 'SIGKILL')
    const events = await followed(run, world)
    expect(events.at(-1)?.event).toMatchObject({ event: 'ended', reason: 'killed', exitCode: null })
    expect(events.map(({ event }) => event.event)).toContain('checkpoint')
  })

  test.concurrent('everything, by stop --kill: nothing is left running and the end says who did it', async ({ folder }) => {
    const world = fakeWorld(folder)
    const run = await launched(world, { steps: 5000, parallel: { processes: 2 } })
    await until(run, world, 'step', 3)
    await stopRun(run, { kill: true }, world)
    const end = (await followed(run, world)).at(-1)?.event
    expect(end).toMatchObject({ event: 'ended', reason: 'killed', message: expect.stringContaining(`killed by ${world.actor}`) })
    const [rank] = newestAttempt(readState(run))?.pids ?? []
    expect(rank && identityOf(rank)).toBeUndefined()
  })
})

describe('when a trainer fails', () => {
  test.concurrent.for([
    ['fail', { reason: 'failed', message: 'expected 1 + 4k frames, got 64 [SHAPE_FRAMES]', hint: 'use 61' }],
    ['memory', { reason: 'out-of-memory' }],
  ] as const)('%s: the end has its own words', async ([how, end], { folder }) => {
    const world = fakeWorld(folder, { dies: { step: 5, how } })
    const run = await launched(world)
    expect((await followed(run, world)).at(-1)?.event).toMatchObject({ event: 'ended', ...end })
    expect(world.engine.logs(filesOf(run.folder).log(1), 50).join()).toContain(`about to ${how} before step 5`)
  })

  test.concurrent('a Python that is not there is said before anything is made, and ends an attempt that it was there for', async ({
    folder,
  }) => {
    const world = fakeWorld(folder)
    const without = runsWorldOf({
      cwd: folder,
      env: { ...process.env, ...pathsOf(folder), STAGEWRIGHT_PYTHON_ENV: 'nowhere' },
      runsFolder: 'runs',
    })
    await expect(launched(without)).rejects.toMatchObject({ code: 'PYTHON_MISSING' })
    expect(listRuns(world.runsFolder)).toEqual([])
    const { run } = await prepareRun(sideOf(), { verb: 'train' }, world)
    await startRun(run, without)
    expect((await followed(run, world)).at(-1)?.event).toMatchObject({ event: 'ended', message: expect.stringContaining('PYTHON_MISSING') })
  })
})

test.concurrent('a run without an attempt is not waited for', async ({ folder }) => {
  const world = fakeWorld(folder)
  const { run } = await prepareRun(sideOf(), { verb: 'train' }, world)
  await expect(attach(run, world).next()).rejects.toMatchObject({ code: 'RUN_NOT_STARTED' })
})

test.concurrent('a branch takes weights and optimiser state of a checkpoint into a new run', async ({ folder }) => {
  const world = fakeWorld(folder, { stepMs: 1 })
  const parent = await launched(world, { checkpoint: { everySteps: 20 } })
  await followed(parent, world)
  const { run, handOff } = await branchRun(parent, 20, sideOf({ learningRate: 1e-5 }), world)
  expect(handOff).toMatchObject({ verb: 'branch', from: `${parent.id}@20` })
  const expected = { run: parent.id, step: 20, use: 'raw', sha256: expect.stringMatching(/^[0-9a-f]{64}$/) }
  expect(run.identity).toMatchObject({ verb: 'branch', parent: expected, inputs: { state: expect.stringContaining('step-00000020') } })
})
