import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, vi } from 'vitest'
import { endOf, newestAttempt } from '../../../src/domain/run/state.ts'
import { sendCommand, stopRun } from '../../../src/runs/control.ts'
import { handleOf, jobPlace } from '../../../src/runs/job.ts'
import { continueRun, prepareRun, startRun } from '../../../src/runs/launch.ts'
import { settledState } from '../../../src/runs/supervise.ts'
import { isSupervised } from '../../../src/runs/supervisor-lock.ts'
import type { RunsWorld } from '../../../src/runs/world.ts'
import { SupervisorJournal } from '../../../src/store/journal.ts'
import { lockHolder } from '../../../src/store/lock.ts'
import { filesOf, type Run, readState } from '../../../src/store/runs.ts'
import { type Behaviour, folderTest, followed, launched, sideOf, until } from '../../runs/fake-world.ts'
import { Cluster, thisMachine } from './place.ts'

/*
 * What every engine owes a run, played by the same scenarios on each.
 */

vi.setConfig({ testTimeout: 90_000, hookTimeout: 60_000, maxConcurrency: 4 })

const test = folderTest
const stage = (settings: object = {}) => ({ memory: { device: 'cpu' }, ...settings })
const lasting = stage({ steps: 20_000 })
const ended = async (run: Run, world: RunsWorld, fromAttempt = 1) => (await followed(run, world, fromAttempt)).at(-1)?.event

async function untilLeft(run: Run): Promise<void> {
  while (isSupervised(run)) await sleep(20)
}

async function killSupervisor(run: Run): Promise<void> {
  const holder = lockHolder(filesOf(run.folder).lock)
  if (!holder || holder.pid === process.pid) throw new Error('expected a supervisor of its own')
  process.kill(holder.pid, 'SIGKILL')
}

describe.each([thisMachine, new Cluster()])('on $name', (site) => {
  beforeAll(site.start)
  afterAll(site.stop)

  describe.skipIf(site.missing !== undefined).concurrent('a run', () => {
    test('that succeeds ends as completed, and nothing of it is left', async ({ folder }) => {
      const world = site.world(folder, { stepMs: 1 })
      const run = await launched(world, stage({ parallel: { processes: 2 } }))
      expect(await ended(run, world)).toMatchObject({ event: 'ended', reason: 'completed', exitCode: 0, step: 40 })
      expect(readState(run).points).toHaveLength(40)
      await vi.waitFor(() => expect(site.left(run)).toEqual([]), 10_000)
    })

    for (const [name, how, expected] of [
      [
        'that a person must mend ends with the trainer’s words',
        'fail',
        { reason: 'failed', message: expect.stringContaining('[SHAPE_FRAMES]') },
      ],
      ['that runs out of memory says so', 'memory', { reason: 'out-of-memory' }],
      ['with a bug ends as failed', 'bug', { reason: 'failed', message: expect.stringContaining('ZeroDivisionError') }],
      [
        'that the system kills names the signal',
        'kill',
        { reason: 'killed', signal: 'SIGKILL', message: 'killed by SIGKILL after step 4' },
      ],
      ['that crashes names the signal', 'segfault', { reason: 'killed', signal: 'SIGSEGV' }],
      ['that ends without a word is told apart', 'exit', { reason: 'failed', message: expect.stringContaining('without a word') }],
    ] as const satisfies readonly (readonly [string, NonNullable<Behaviour['dies']>['how'], object])[]) {
      test(name, async ({ folder }) => {
        const world = site.world(folder, { stepMs: 1, dies: { step: 5, how } })
        const run = await launched(world, stage())
        expect(await ended(run, world)).toMatchObject({ event: 'ended', ...expected })
        expect(readFileSync(filesOf(run.folder).log(1), 'utf8')).toContain(`about to ${how} before step 5`)
      })
    }

    test('ends with what another rank failed with, and ends the others', async ({ folder }) => {
      const world = site.world(folder, { dies: { step: 5, how: 'rank' } })
      const run = await launched(world, { ...lasting, parallel: { processes: 2 } })
      expect(await ended(run, world)).toMatchObject({ reason: 'out-of-memory', message: 'rank 1 asked for 3 GiB [OUT_OF_MEMORY]' })
      await vi.waitFor(() => expect(site.left(run)).toEqual([]), 15_000)
    })

    test('that hangs is ended by kill alone, and nothing of it is left', async ({ folder }) => {
      const world = site.world(folder, { dies: { step: 5, how: 'hang' } })
      const run = await launched(world, { ...lasting, parallel: { processes: 2 } })
      await until(run, world, 'step', 4)
      await stopRun(run, { kill: true }, world)
      expect(await ended(run, world)).toMatchObject({ reason: 'killed', message: expect.stringContaining(`killed by ${world.actor}`) })
      await vi.waitFor(() => expect(site.left(run)).toEqual([]), 15_000)
    })

    test('that is killed before the trainer has said a word leaves nothing behind', async ({ folder }) => {
      const world = site.world(folder, { startMs: 60_000 })
      const run = await launched(world, lasting)
      while (!existsSync(filesOf(run.folder).trainer)) await sleep(50)
      await stopRun(run, { kill: true }, world)
      expect(await ended(run, world)).toMatchObject({ reason: 'killed' })
      await vi.waitFor(() => expect(site.left(run)).toEqual([]), 15_000)
    })

    test('stops with a checkpoint, and goes on from it', async ({ folder }) => {
      const world = site.world(folder)
      const run = await launched(world, lasting)
      await until(run, world, 'step', 3)
      await stopRun(run, { reason: 'enough' }, world)
      expect(await ended(run, world)).toMatchObject({ reason: 'stopped', exitCode: 0 })
      await untilLeft(run)
      const { step } = readState(run)
      expect((await continueRun(run, world)).from).toBe(`step ${step}`)
      await until(run, world, 'step', step + 1)
      await stopRun(run, {}, world)
      expect(await ended(run, world, 2)).toMatchObject({ reason: 'stopped', attempt: 2 })
      expect(readState(run).attempts.map(({ engine }) => engine)).toEqual([run, run].map(() => (site === thisMachine ? 'local' : 'slurm')))
    })

    test('that is asked by its engine to end leaves a checkpoint', async ({ folder }) => {
      const world = site.world(folder)
      const run = await launched(world, lasting)
      await until(run, world, 'step', 3)
      const attempt = newestAttempt(readState(run))
      if (!attempt) throw new Error('no attempt')
      await world.engine.signal(handleOf(attempt), jobPlace(run, attempt), 'TERM')
      expect(await ended(run, world)).toMatchObject({ reason: 'killed', message: expect.stringContaining('checkpoint was written') })
      expect(readState(run).checkpoints.at(-1)?.step).toBe(readState(run).step)
    })

    test('hears commands as files where its socket cannot be reached', async ({ folder }) => {
      const world = site.world(folder, { withoutSocket: true })
      const run = await launched(world, lasting)
      await until(run, world, 'step', 3)
      const { step, effective } = await sendCommand(run, { name: 'set', path: 'learningRate', value: 0.5 }, world)
      expect([effective, readState(run).changes.at(-1)?.step]).toEqual([0.5, step])
      await stopRun(run, {}, world)
      expect(await ended(run, world)).toMatchObject({ reason: 'stopped' })
    })

    test('that was killed does the lost steps again', async ({ folder }) => {
      const world = site.world(folder, { stepMs: 1, dies: { step: 25, how: 'torn' } })
      const run = await launched(world, stage({ checkpoint: { everySteps: 20 } }))
      expect(await ended(run, world)).toMatchObject({ reason: 'killed', signal: 'SIGKILL' })
      await untilLeft(run)
      expect((await continueRun(run, world)).from).toBe('step 20')
      expect(await ended(run, world, 2)).toMatchObject({ reason: 'completed' })
      expect(readState(run).points.map(({ step }) => step)).toEqual(Array.from({ length: 40 }, (_, at) => at + 1))
    })

    test('is not started twice by two at once', async ({ folder }) => {
      const world = site.world(folder, { stepMs: 1, dies: { step: 5, how: 'exit' } })
      const run = await launched(world, stage())
      await ended(run, world)
      await untilLeft(run)
      await Promise.allSettled([continueRun(run, world), continueRun(run, world)])
      expect(await ended(run, world, 2)).toMatchObject({ reason: 'completed' })
      await untilLeft(run)
      expect(readState(run).attempts).toHaveLength(2)
      expect(readFileSync(filesOf(run.folder).trainer, 'utf8').match(/"attempt":2,"event":"ready"/g)).toHaveLength(1)
    })

    test('whose supervisor is killed trains on and is adopted', async ({ folder }) => {
      const world = site.world(folder, {}, { detached: true })
      const run = await launched(world, stage({ steps: 300 }))
      await until(run, world, 'step', 3)
      await killSupervisor(run)
      const events = await followed(run, world)
      expect(events.map(({ event }) => event.event)).toContain('adopted')
      expect(events.at(-1)?.event).toMatchObject({ event: 'ended', reason: 'completed', exitCode: 0 })
    })

    test('whose supervisor is killed before it wrote down what it started is found again', async ({ folder }) => {
      const world = site.world(folder, {}, { detached: true })
      const run = await launched(world, lasting)
      await killSupervisor(run)
      const { supervisor } = filesOf(run.folder)
      const lines = readFileSync(supervisor, 'utf8').split('\n')
      writeFileSync(supervisor, lines.filter((line) => !line.includes('"handle":{')).join('\n'))
      expect(newestAttempt(readState(run))?.handle).toBeNull()
      await until(run, world, 'step', 3)
      await stopRun(run, {}, world)
      expect(await ended(run, world)).toMatchObject({ event: 'ended', reason: 'stopped', exitCode: 0 })
    })

    test('whose supervisor was killed before it could start anything is lost, and can be continued', async ({ folder }) => {
      const world = site.world(folder, { stepMs: 1 })
      const { run } = await prepareRun(sideOf(stage()), { verb: 'train' }, world)
      const journal = new SupervisorJournal(filesOf(run.folder).supervisor)
      journal.append(1, {
        event: 'attempt',
        engine: site === thisMachine ? 'local' : 'slurm',
        handle: null,
        command: [],
        continuesFrom: null,
      })
      journal.close()
      expect(endOf(await settledState(run, world))).toMatchObject({ reason: 'lost' })
      await startRun(run, world)
      expect(await ended(run, world, 2)).toMatchObject({ attempt: 2, reason: 'completed' })
    })
  })
})
