import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, describe, expect, vi } from 'vitest'
import { endOf, newestAttempt, waitingFor } from '../../../src/domain/run/state.ts'
import { identityOf, processesWhere } from '../../../src/engines/process-identity.ts'
import { stopRun } from '../../../src/runs/control.ts'
import { exampleJob, handleOf, jobPlace } from '../../../src/runs/job.ts'
import { continueRun } from '../../../src/runs/launch.ts'
import { isGone } from '../../../src/runs/supervise.ts'
import type { RunsWorld } from '../../../src/runs/world.ts'
import { filesOf, type Run, readState } from '../../../src/store/runs.ts'
import { folderTest, followed, launched, sideOf, until } from '../../runs/fake-world.ts'
import { Cluster } from '../conformance/place.ts'

/*
 * What only a cluster does to a run. Each test has the cluster for itself: they kill its controller and its nodes.
 */

vi.setConfig({ testTimeout: 90_000, hookTimeout: 60_000 })

const test = folderTest
const site = new Cluster()
const cpu = { memory: { device: 'cpu' } }
const lasting = { ...cpu, steps: 20_000 }
const jobOf = (run: Run) => (newestAttempt(readState(run))?.handle as { jobId: string } | undefined)?.jobId ?? ''
const starts = (run: Run) =>
  [...readFileSync(filesOf(run.folder).trainer, 'utf8').matchAll(/"event":"started","step":(\d+)/g)].map(([, step]) => Number(step))
const ended = async (run: Run, world: RunsWorld, fromAttempt = 1) => (await followed(run, world, fromAttempt)).at(-1)?.event

/** Slurm's own processes that a run's machine would lose with its network: its launcher, and the daemons above that and above a rank. */
function cutOff(run: Run, rank: number): number[] {
  const launchers = processesWhere((words) => (words[0] ?? '').endsWith('srun') && words.includes(run.folder)).map(({ pid }) => pid)
  const daemons = [rank, ...launchers].flatMap((pid) => ancestors(pid).filter((above) => commandOf(above).startsWith('slurmstepd')))
  return [...launchers, ...new Set(daemons)]
}

const commandOf = (pid: number) => readFileSync(`/proc/${pid}/cmdline`, 'utf8')

function ancestors(pid: number): number[] {
  const parent = Number(/^PPid:\s*(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1])
  return parent <= 1 ? [] : [parent, ...ancestors(parent)]
}

async function waits(run: Run): Promise<void> {
  await vi.waitFor(() => expect(waitingFor(newestAttempt(readState(run)))).toBeDefined(), { timeout: 20_000, interval: 50 })
}

describe.skipIf(site.missing !== undefined)(`on ${site.name}, a run`, () => {
  beforeAll(site.start)
  afterAll(site.stop)
  afterEach(() => site.box.clear())

  /** Both nodes for somebody else; returns their job. */
  const occupied = (seconds: number, partition = 'low') =>
    site.box
      .run('sbatch', '--parsable', '-p', partition, '-N2', '--exclusive', '--mem=10', '--output=/dev/null', '--wrap', `sleep ${seconds}`)
      .trim()

  test('trains over two machines', async ({ folder }) => {
    const world = site.world(folder, { stepMs: 1 })
    const run = await launched(world, { ...cpu, parallel: { nodes: 2, processes: 2 } })
    const events = await followed(run, world)
    expect(events.at(-1)?.event).toMatchObject({ event: 'ended', reason: 'completed', exitCode: 0 })
    expect(events.find(({ event }) => event.event === 'ready')?.event).toMatchObject({ worldSize: 4 })
  })

  test('that is preempted leaves a checkpoint, comes back and goes on from it', async ({ folder }) => {
    const world = site.world(folder)
    const run = await launched(world, { ...lasting, parallel: { nodes: 2 } })
    await until(run, world, 'step', 10)
    occupied(1, 'high')
    await vi.waitFor(() => expect(starts(run)).toHaveLength(2), { timeout: 30_000, interval: 50 })
    const told = readFileSync(filesOf(run.folder).trainer, 'utf8')
    const [, paused] = /"event":"finished","step":(\d+),"reason":"paused"/.exec(told) ?? []
    expect(starts(run)).toEqual([0, Number(paused)])
    await stopRun(run, {}, world)
    const events = await followed(run, world)
    expect(events.map(({ event }) => event)).toContainEqual(expect.objectContaining({ event: 'waiting', restarts: 1 }))
    expect(events.at(-1)?.event).toMatchObject({ reason: 'stopped', exitCode: 0 })
    expect(readState(run).attempts).toHaveLength(1)
  })

  async function comesBack(run: Run, world: RunsWorld): Promise<void> {
    await vi.waitFor(() => expect(starts(run)).toHaveLength(2), { timeout: 80_000, interval: 100 })
    expect(starts(run)[1]).toBeGreaterThan(0)
    await stopRun(run, {}, world)
    expect(await ended(run, world)).toMatchObject({ reason: 'stopped' })
  }

  test('that gets the signal of its time limit comes back', async ({ folder }) => {
    const world = site.world(folder)
    const run = await launched(world, lasting)
    await until(run, world, 'step', 10)
    site.box.askBatch(jobOf(run))
    await comesBack(run, world)
  })

  // Slurm's limits are minutes, and it looks at them each half a minute.
  test.skipIf(!process.env.STAGEWRIGHT_FULL)('near its time limit comes back', async ({ folder }) => {
    const world = site.world(folder, { stepMs: 20 }, { settings: { time: '1', leadSeconds: 60 } })
    await comesBack(await launched(world, lasting), world)
  })

  test('whose machine goes down starts again elsewhere', async ({ folder }) => {
    const world = site.world(folder)
    const run = await launched(world, { ...lasting, checkpoint: { everySteps: 20 } })
    await until(run, world, 'checkpoint')
    const node = site.box.run('squeue', '-h', '-j', jobOf(run), '-o', '%N').trim()
    site.box.run('scontrol', 'update', `NodeName=${node}`, 'State=DOWN', 'Reason=test')
    try {
      await vi.waitFor(() => expect(starts(run)).toHaveLength(2), { timeout: 30_000, interval: 50 })
    } finally {
      site.box.run('scontrol', 'update', `NodeName=${node}`, 'State=RESUME')
    }
    expect(starts(run)[1]).toBeGreaterThanOrEqual(20)
    await stopRun(run, {}, world)
    expect(await ended(run, world)).toMatchObject({ reason: 'stopped' })
  })

  test('that lives on where it was given up for lost writes nothing once it has started elsewhere', async ({ folder }) => {
    const world = site.world(folder)
    const run = await launched(world, { ...lasting, checkpoint: { everySteps: 20 } })
    await until(run, world, 'checkpoint')
    const [old] = newestAttempt(readState(run))?.pids ?? []
    const node = site.box.run('squeue', '-h', '-j', jobOf(run), '-o', '%N').trim()
    // Stopped, they hear nothing of their node being given up, and end nothing there.
    const cut = cutOff(run, old ?? 0)
    site.box.signalNode(node, 'SIGSTOP')
    for (const pid of cut) process.kill(pid, 'SIGSTOP')
    try {
      site.box.run('scontrol', 'update', `NodeName=${node}`, 'State=DOWN', 'Reason=test')
      await vi.waitFor(() => expect(starts(run)).toHaveLength(2), { timeout: 30_000, interval: 50 })
      await vi.waitFor(() => expect(identityOf(old ?? 0)).toBeUndefined(), { timeout: 10_000, interval: 50 })
      await until(run, world, 'step', readState(run).step + 20)
    } finally {
      for (const pid of cut) process.kill(pid, 'SIGKILL')
      site.box.signalNode(node, 'SIGCONT')
      site.box.run('scontrol', 'update', `NodeName=${node}`, 'State=RESUME')
    }
    expect(readFileSync(filesOf(run.folder).log(1), 'utf8')).toContain('this attempt was started again elsewhere')
    expect(existsSync(filesOf(run.folder).exit(1))).toBe(false)
    await stopRun(run, {}, world)
    expect(await ended(run, world)).toMatchObject({ reason: 'stopped', exitCode: 0 })
    const numbers = [...readFileSync(filesOf(run.folder).trainer, 'utf8').matchAll(/^\{"seq":(\d+)/gm)].map(([, seq]) => Number(seq))
    expect(numbers).toEqual(numbers.map((_, at) => at))
  })

  test.skipIf(!process.env.STAGEWRIGHT_FULL)(
    'that comes no further between its starts ends and says why',
    async ({ folder }) => {
      const setup = ['(sleep 0.5; kill -USR1 $$) &']
      const world = site.world(folder, { startMs: 1500 }, { settings: { setup } })
      const run = await launched(world, lasting)
      await vi.waitFor(() => expect(endOf(readState(run))).toBeDefined(), { timeout: 170_000, interval: 200 })
      expect(endOf(readState(run))).toMatchObject({
        reason: 'failed',
        message: 'Slurm took the machines back 3 times in a row before there was a newer checkpoint, after step 0',
      })
      expect(starts(run)).toEqual([0, 0, 0, 0])
    },
    180_000,
  )

  test('whose controller is killed trains on, is not taken for gone, and its end is known', async ({ folder }) => {
    const world = site.world(folder)
    const run = await launched(world, lasting)
    await until(run, world, 'step', 3)
    await site.box.killController()
    const attempt = newestAttempt(readState(run))
    if (!attempt) throw new Error('no attempt')
    const seen = () => world.engine.observe(handleOf(attempt), jobPlace(run, attempt))
    await vi.waitFor(async () => expect(await seen()).toMatchObject({ state: 'unseen', untilSilent: false }), { timeout: 30_000 })
    expect(await isGone(run, attempt, 0, world.engine)).toBe(false)
    await expect(stopRun(run, { kill: true }, world)).rejects.toMatchObject({ code: 'SLURM_UNREACHABLE' })
    await until(run, world, 'step', readState(run).step + 20)
    await site.box.startController()
    await stopRun(run, { after: readState(run).step + 10 }, world)
    expect(await ended(run, world)).toMatchObject({ event: 'ended' })
  })

  test('whose trainer finishes while the controller is dead ends once it is back', async ({ folder }) => {
    const world = site.world(folder, { stepMs: 2 })
    const run = await launched(world, { ...cpu, steps: 6000 })
    await until(run, world, 'step', 3)
    await site.box.killController()
    await until(run, world, 'finished')
    expect(endOf(readState(run))).toBeUndefined()
    await site.box.startController()
    expect(await ended(run, world)).toMatchObject({ reason: 'completed', exitCode: 0 })
  })

  test('sent to a dead controller starts once, when it is back', async ({ folder }) => {
    const world = site.world(folder, { stepMs: 1 })
    site.box.run('scontrol', 'shutdown', 'controller')
    const launching = launched(world, cpu)
    await sleep(500)
    await site.box.startController()
    const run = await launching
    expect(await ended(run, world)).toMatchObject({ reason: 'completed' })
    expect(starts(run)).toEqual([0])
  })

  test('whose job was sent twice trains once', async ({ folder }) => {
    const world = site.world(folder)
    const run = await launched(world, { ...cpu, steps: 300 })
    const twin = site.box.run('sbatch', '--parsable', filesOf(run.folder).script(1)).trim()
    expect(await ended(run, world)).toMatchObject({ reason: 'completed', exitCode: 0 })
    await site.box.until(() => site.box.state(twin) === 'COMPLETED', 'the twin’s end')
    expect(starts(run)).toEqual([0])
    expect(readFileSync(filesOf(run.folder).log(1), 'utf8')).toMatch(/has this attempt already|has ended already/)
  })

  test('whose number now belongs to another job has ended, and leaves that job alone', async ({ folder }) => {
    const world = site.world(folder, { stepMs: 1 })
    const run = await launched(world, cpu)
    await ended(run, world)
    const other = occupied(60)
    const { supervisor } = filesOf(run.folder)
    const lines = readFileSync(supervisor, 'utf8')
      .replaceAll(`"jobId":"${jobOf(run)}"`, `"jobId":"${other}"`)
      .split('\n')
    writeFileSync(supervisor, lines.filter((line) => !line.includes('"event":"ended"')).join('\n'))
    const attempt = newestAttempt(readState(run))
    if (!attempt) throw new Error('no attempt')
    expect(await isGone(run, attempt, 0, world.engine)).toBe(true)
    await world.engine.signal(handleOf(attempt), jobPlace(run, attempt), 'KILL')
    expect(['RUNNING', 'PENDING']).toContain(site.box.state(other))
    site.box.run('scancel', other)
  })

  test('that waits for machines says so, and stop takes it out of the queue', async ({ folder }) => {
    const world = site.world(folder)
    const other = occupied(60)
    await site.box.until(() => site.box.state(other) === 'RUNNING', 'the other job')
    const run = await launched(world, { ...lasting, parallel: { nodes: 2 } })
    await waits(run)
    await stopRun(run, {}, world)
    expect(await ended(run, world)).toMatchObject({ reason: 'stopped', message: expect.stringContaining('taken out of the queue') })
    expect(site.left(run)).toEqual([])
    site.box.run('scancel', other)
  })

  test('that somebody cancels in the queue ends as killed, with Slurm’s word', async ({ folder }) => {
    const world = site.world(folder)
    const other = occupied(60)
    await site.box.until(() => site.box.state(other) === 'RUNNING', 'the other job')
    const run = await launched(world, { ...lasting, parallel: { nodes: 2 } })
    await waits(run)
    site.box.run('scancel', jobOf(run))
    site.box.run('scancel', other)
    expect(await ended(run, world)).toMatchObject({ reason: 'killed', message: expect.stringContaining('CANCELLED') })
  })

  test('the cluster does not take ends at once with its words, and can go on elsewhere', async ({ folder }) => {
    const world = site.world(folder, { stepMs: 1 }, { settings: { partition: 'none' } })
    const run = await launched(world, cpu)
    expect(await ended(run, world)).toMatchObject({
      reason: 'failed',
      message: expect.stringMatching(/invalid partition.*\[SLURM_REFUSED\]/),
    })
    const here: RunsWorld = { ...site.world(folder, { stepMs: 1 }), chosenEngine: { formatVersion: 1, kind: 'local' } }
    await vi.waitFor(() => continueRun(run, here), { timeout: 10_000 })
    expect(await ended(run, here, 2)).toMatchObject({ reason: 'completed' })
    expect(endOf(readState(run))?.reason).toBe('completed')
    expect(readState(run).attempts.map(({ engine }) => engine)).toEqual(['slurm', 'local'])
  })

  test('is forecast as the cluster would start it, before anything is made', async ({ folder }) => {
    const world = site.world(folder)
    const { stage } = sideOf({ ...cpu, parallel: { nodes: 2 } })
    expect(await world.engine.forecast(exampleJob(stage, world))).toMatch(/^to start at .* on nodes n\[1-2\]/)
    const { stage: tooLarge } = sideOf({ ...cpu, parallel: { nodes: 3 } })
    await expect(world.engine.forecast(exampleJob(tooLarge, world))).rejects.toMatchObject({ code: 'SLURM_REFUSED' })
    expect(world.engine.render(exampleJob(stage, world))).toContain('#SBATCH --nodes=2')
    expect(site.box.jobs()).toEqual([])
  })
})
