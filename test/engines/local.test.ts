import { spawn } from 'node:child_process'
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import type { EndedJob, Job, JobPlace, LocalHandle } from '../../src/engines/engine.ts'
import { LocalEngine } from '../../src/engines/local.ts'
import { identityOf, isAlive } from '../../src/engines/process-identity.ts'

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'engine-'))
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

const engine = new LocalEngine({ PATH: process.env.PATH, NODE_CHANNEL_FD: '3', OWN: 'kept' })

const placeOf = (exitFile: string): JobPlace => ({ runFolder: folder, attempt: 3, engine: 'local', token: 'run:3', exitFile })

/** A job whose Python is a shell script. */
function jobOf(script: string): Job {
  const python = join(folder, 'python')
  writeFileSync(python, `#!/bin/sh\n${script}\n`)
  chmodSync(python, 0o700)
  const files = { log: join(folder, 'log'), exitFile: join(folder, 'exit.json') }
  return {
    ...placeOf(files.exitFile),
    choice: { formatVersion: 1, kind: 'local' },
    wantsGpus: false,
    script: '',
    processes: 2,
    nodes: 1,
    threads: 4,
    python,
    pythonPath: '/there',
    ...files,
  }
}

async function settled(handle: LocalHandle, job: Job): Promise<EndedJob> {
  for (;;) {
    const status = await engine.observe(handle, job)
    if (status.state === 'ended') return status
    await sleep(10)
  }
}

describe('a job on this machine', () => {
  test('is torchrun over its ranks, with the stage’s threads, the bundled trainer and no channel of ours', async () => {
    const job = jobOf('echo "$@"; echo "$OMP_NUM_THREADS $PYTHONPATH $OWN"; env | grep NODE_CHANNEL; pwd')
    expect(await settled(await engine.submit(job), job)).toEqual({ state: 'ended', exitCode: 0, signal: null })
    const line = `-m torch.distributed.run --standalone --nnodes=1 --nproc-per-node=2 --max-restarts=0 -m osplan train ${folder} --attempt=3`
    expect(engine.logs(job.log, 3)).toEqual([line, '4 /there kept', folder])
    expect(engine.command(job)).toEqual([job.python, ...line.split(' ')])
  })

  test('leaves its exit status behind, and a signal’s name where one ended it', async () => {
    const job = jobOf('exit 3')
    expect(await settled(await engine.submit(job), job)).toMatchObject({ exitCode: 3, signal: null })
    const killed = { ...jobOf('kill -9 $$'), exitFile: `${job.exitFile}.killed` }
    expect(await settled(await engine.submit(killed), killed)).toMatchObject({ exitCode: 137, signal: 'SIGKILL' })
    expect(JSON.parse(readFileSync(killed.exitFile, 'utf8'))).toEqual({ formatVersion: 1, exitCode: 137 })
  })

  test('gets TERM passed on and may take its time', async () => {
    const job = jobOf('trap "echo asked; sleep 0.2; exit 5" TERM; echo on; while :; do sleep 0.02; done')
    const handle = await engine.submit(job)
    while (engine.logs(job.log, 1)[0] !== 'on') await sleep(10)
    await engine.signal(handle, job, 'TERM')
    expect(await settled(handle, job)).toMatchObject({ exitCode: 5 })
    expect(engine.logs(job.log, 1)).toEqual(['asked'])
  })

  test('tells the launcher’s status, however often and whenever it is asked to end', async () => {
    for (let round = 0; round < 8; round += 1) {
      const job = jobOf('trap "exit 5" TERM; echo on; while :; do sleep 0.01; done')
      rmSync(job.exitFile, { force: true })
      rmSync(job.log, { force: true })
      const handle = await engine.submit(job)
      while (engine.logs(job.log, 1)[0] !== 'on') await sleep(5)
      while (isAlive(handle.process)) {
        await engine.signal(handle, job, 'TERM')
        await sleep(round % 2)
      }
      expect(await engine.observe(handle, job)).toMatchObject({ exitCode: 5 })
    }
  })

  test('asked to end before its launcher is there still ends', async () => {
    for (let round = 0; round < 8; round += 1) {
      const job = jobOf('sleep 60')
      rmSync(job.exitFile, { force: true })
      const handle = await engine.submit(job)
      await sleep(round)
      await engine.signal(handle, job, 'TERM')
      // Before the shell could listen, nothing was there to leave a status.
      expect([143, null]).toContain((await settled(handle, job)).exitCode)
      // Whoever wrote the status is about to end.
      await vi.waitFor(() => expect(engine.find(job.exitFile)).toBeUndefined(), 10_000)
    }
  })

  test('has ended where a power cut emptied its exit file', async () => {
    const exitFile = join(folder, 'exit.json')
    writeFileSync(exitFile, '')
    expect(await engine.observe(undefined, placeOf(exitFile))).toEqual({ state: 'ended', exitCode: null, signal: null })
  })

  test('has the ranks that run its attempt of its folder, by whatever path, and no launcher or other run', async () => {
    const rank = (run: string, attempt: number) => spawn('sh', ['-c', 'read line', 'x', 'osplan', 'train', run, `--attempt=${attempt}`])
    const other = mkdtempSync(join(tmpdir(), 'engine-'))
    const linked = join(other, basename(folder))
    symlinkSync(folder, linked)
    const children = [rank(folder, 3), rank(folder, 4), rank(join(other, 'run'), 3)]
    const job = jobOf('sleep 60')
    const handle = await engine.submit(job)
    await sleep(50)
    const pids = (run: string) => engine.ranks({ runFolder: run, attempt: 3, engine: 'local' }).map(({ pid }) => pid)
    expect(pids(folder)).toEqual([children[0]?.pid])
    expect(pids(linked)).toEqual(pids(folder))
    expect(pids(join(other, 'run'))).toEqual([children[2]?.pid])
    for (const child of children) child.kill('SIGKILL')
    await engine.signal(handle, job, 'KILL')
    rmSync(other, { recursive: true })
  })

  test('is found again by its exit file, and no longer after KILL, which leaves no status', async () => {
    const job = jobOf('sleep 60')
    const handle = await engine.submit(job)
    expect(engine.find(job.exitFile)).toEqual(handle)
    expect(engine.find(join(folder, 'other.json'))).toBeUndefined()
    await engine.signal(handle, job, 'KILL')
    expect(await settled(handle, job)).toEqual({ state: 'ended', exitCode: null, signal: null })
    expect(existsSync(job.exitFile)).toBe(false)
    expect(engine.find(job.exitFile)).toBeUndefined()
  })

  test('of another host runs until its exit file is there, and is never signalled from here', async () => {
    const own = identityOf(process.pid)
    if (!own) throw new Error('no entry under /proc')
    const elsewhere = { kind: 'local', process: { ...own, host: 'elsewhere' } } as const
    const exitFile = join(folder, 'exit.json')
    expect(await engine.observe(elsewhere, placeOf(exitFile))).toMatchObject({ state: 'unseen', untilSilent: true })
    await engine.signal(elsewhere, placeOf(exitFile), 'KILL')
    engine.reconcile([elsewhere.process])
    writeFileSync(exitFile, '{"formatVersion":1,"exitCode":0}')
    expect(await engine.observe(elsewhere, placeOf(exitFile))).toMatchObject({ state: 'ended', exitCode: 0 })
  })
})

test('a job over several machines is refused', async () => {
  await expect(engine.submit({ ...jobOf('exit 0'), nodes: 2 })).rejects.toMatchObject({ code: 'ENGINE_NODES' })
})

describe('a process', () => {
  test('is told from a later one with the same number by its start', async () => {
    const child = spawn('sleep', ['60'])
    const identity = identityOf(child.pid ?? 0)
    if (!identity) throw new Error('the child has no entry under /proc')
    expect(isAlive(identity)).toBe(true)
    expect(isAlive({ ...identity, startTime: `${Number(identity.startTime) - 1}` })).toBe(false)
    engine.reconcile([{ ...identity, startTime: '1' }])
    expect(isAlive(identity)).toBe(true)
    engine.reconcile([identity])
    await new Promise((resolve) => child.once('exit', resolve))
    expect(isAlive(identity)).toBe(false)
  })
})
