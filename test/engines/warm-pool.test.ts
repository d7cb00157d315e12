import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, describe, expect, test } from 'vitest'
import type { TrainerEvent } from '../../src/domain/protocol.ts'
import { endOf } from '../../src/domain/run/state.ts'
import { stageSchema } from '../../src/domain/stage/schema.ts'
import { LocalEngine } from '../../src/engines/local.ts'
import { PooledEngine, WarmPool } from '../../src/engines/warm-pool.ts'
import { attach } from '../../src/runs/attach.ts'
import { withData } from '../../src/runs/chain.ts'
import { prepareRun, startRun } from '../../src/runs/launch.ts'
import { supervise } from '../../src/runs/supervise.ts'
import type { RunsWorld } from '../../src/runs/world.ts'
import { filesOf, type Run, readState } from '../../src/store/runs.ts'
import { sideOf, tinyStages, tinyWorld } from '../end-to-end/tiny-stages.ts'
import { fakeWorld, pathsOf } from '../runs/fake-world.ts'

const { world, data } = tinyWorld()
const warm = world.warmEngine(join(world.cwd, 'pool.log'))
/** Supervises in this process, so that the pool's engine is the one that starts the job. */
const warmWorld: RunsWorld = {
  ...world,
  engine: warm.engine,
  startSupervisor: async (folder, attempt) => {
    let isOver = false
    supervise(folder, warmWorld, { attempt }).finally(() => {
      isOver = true
    })
    return { hasEnded: () => isOver }
  },
}
const stage = stageSchema.parse({ ...tinyStages.first, vae: { ...tinyStages.first.vae, weights: 'random' }, steps: 5, learningRate: 2e-3 })

afterAll(() => {
  warm.close()
  rmSync(world.cwd, { recursive: true, force: true, maxRetries: 5 })
})

async function started(in_: RunsWorld, steps: number): Promise<Run> {
  const { run } = await prepareRun(withData(sideOf({ ...stage, steps }), data), { verb: 'train' }, in_)
  await startRun(run, in_)
  return run
}

async function toItsEnd(run: Run, in_: RunsWorld): Promise<void> {
  for await (const _ of attach(run, in_));
}

async function untilStep(run: Run, step: number): Promise<void> {
  while (readState(run).step < step) await sleep(20)
}

function trace(run: Run): string[] {
  const lines = readFileSync(join(run.folder, 'trainer.jsonl'), 'utf8').split('\n').filter(Boolean)
  return lines
    .map((line) => JSON.parse(line) as TrainerEvent)
    .flatMap((event) =>
      event.event === 'step'
        ? [`${event.step} ${event.loss} ${event.gradientNorm}`]
        : event.event === 'heldOut'
          ? [`${event.raw.loss}`]
          : [],
    )
}

describe('a job forked from the warm pool', { timeout: 120_000 }, () => {
  test('has the losses of a cold start bit for bit', async () => {
    const [cold, forked] = [await started(world, 5), await started(warmWorld, 5)]
    await toItsEnd(forked, warmWorld)
    await toItsEnd(cold, world)
    expect(endOf(readState(forked))).toMatchObject({ reason: 'completed', exitCode: 0 })
    expect(trace(forked)).toHaveLength(7)
    expect(trace(forked)).toEqual(trace(cold))
    expect(readFileSync(join(world.cwd, 'pool.log'), 'utf8')).toBe('')
  })

  test('is found by its command line and its exit file, goes on without the pool, and ends like a cold one', async () => {
    const run = await started(warmWorld, 100)
    await untilStep(run, 2)
    const here = new LocalEngine(process.env)
    const [rank] = here.ranks({ runFolder: run.folder, attempt: 1, engine: 'local' })
    expect(readState(run).attempts[0]?.pids).toEqual([rank?.pid])
    expect(here.find(filesOf(run.folder).exit(1))).toEqual(readState(run).attempts[0]?.handle)

    warm.close()
    const before = readState(run).step
    await untilStep(run, before + 3)
    process.kill(rank?.pid ?? Number.NaN, 'SIGKILL')
    await toItsEnd(run, world)
    expect(endOf(readState(run))).toMatchObject({ reason: 'killed', signal: 'SIGKILL' })
  })

  test('starts cold where there is no pool', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'run-'))
    const fake = fakeWorld(folder, { stepMs: 1 })
    const env = { ...process.env, ...pathsOf(folder) }
    const pool = new WarmPool(
      { python: '/bin/false', pythonPath: '', socket: join(folder, 'none.sock'), log: join(folder, 'pool.log') },
      env,
    )
    const engine = new PooledEngine(fake.engine, pool, env)
    const { run } = await prepareRun(sideOf({ name: 'small', steps: 3 }), { verb: 'train' }, fake)
    expect(await supervise(run.folder, { engine, python: fake.python }, { attempt: 1 })).toMatchObject({ reason: 'completed' })
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 })
  })
})
