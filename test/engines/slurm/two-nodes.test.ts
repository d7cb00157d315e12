import { readFileSync, rmSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { slurmSettings } from '../../../src/domain/engine-choice.ts'
import type { TrainerEvent } from '../../../src/domain/protocol.ts'
import { endOf, newestAttempt } from '../../../src/domain/run/state.ts'
import type { SlurmHandle } from '../../../src/engines/engine.ts'
import { attach } from '../../../src/runs/attach.ts'
import { withData } from '../../../src/runs/chain.ts'
import { prepareRun, startRun } from '../../../src/runs/launch.ts'
import type { RunsWorld } from '../../../src/runs/world.ts'
import { filesOf, type Run, readState } from '../../../src/store/runs.ts'
import { sideOf, tinyStages, tinyWorld } from '../../end-to-end/tiny-stages.ts'
import { supervised } from '../../runs/fake-world.ts'
import { SlurmBox, whyNoSlurm } from './box.ts'

/*
 * Real training over two nodes of a cluster: the ranks meet through torchrun and gloo.
 */

vi.setConfig({ testTimeout: 900_000, hookTimeout: 60_000 })

/** It takes a minute of two cores; the quick tests play the same with a trainer that trains nothing. */
const missing = whyNoSlurm() ?? (process.env.STAGEWRIGHT_FULL ? undefined : 'slow')
const steps = 16
let box: SlurmBox
const worlds: RunsWorld[] = []

beforeAll(async () => {
  if (!missing) box = await SlurmBox.start()
})
afterAll(async () => {
  await box?.stop()
  for (const { cwd } of worlds) rmSync(cwd, { recursive: true, force: true, maxRetries: 5 })
})

function on(place: Parameters<typeof tinyWorld>[0]): { world: RunsWorld; data: string } {
  const { world, data } = tinyWorld(place)
  worlds.push(world)
  return { world: supervised(world), data }
}

async function trained({ world, data }: ReturnType<typeof on>, settings: object, meanwhile?: (run: Run) => void): Promise<Run> {
  const stage = { ...tinyStages.first, vae: { ...tinyStages.first.vae, weights: 'random' }, steps, ...settings }
  const { run } = await prepareRun(withData(sideOf(stage), data), { verb: 'train' }, world)
  await startRun(run, world)
  let asked = false
  for await (const { event } of attach(run, world)) {
    if (event.event !== 'started' || asked) continue
    asked = true
    meanwhile?.(run)
  }
  expect(endOf(readState(run))).toMatchObject({ reason: 'completed', step: steps })
  return run
}

function losses(run: Run): Map<number, number> {
  const lines = readFileSync(filesOf(run.folder).trainer, 'utf8').split('\n').filter(Boolean)
  const events = lines.map((line) => JSON.parse(line) as TrainerEvent)
  return new Map(events.flatMap((event) => (event.event === 'step' ? [[event.step, event.loss as number]] : [])))
}

describe.skipIf(missing !== undefined)(`real training over two nodes${missing ? ` (${missing})` : ''}`, () => {
  test('has the losses of one process with the same global batch, also where it is preempted in between', async () => {
    const alone = losses(await trained(on({}), { batch: { perDevice: 2, accumulate: 2 } }))
    const env = { ...box.env, STAGEWRIGHT_SLURM_POLL_SECONDS: '0.3' }
    const cluster = on({ env, engine: { formatVersion: 1, kind: 'slurm', slurm: slurmSettings.parse({ memory: '100M' }) } })
    const settings = { batch: { perDevice: 2, accumulate: 1 }, parallel: { nodes: 2, processes: 1 } }
    const preempted = await trained(cluster, settings, (run) => {
      const handle = newestAttempt(readState(run))?.handle as SlurmHandle | undefined
      box.askBatch(handle?.jobId ?? '')
    })
    const journal = readFileSync(filesOf(preempted.folder).trainer, 'utf8')
    expect(journal.match(/"event":"ready","protocol":1,"worldSize":2/g)).toHaveLength(2)
    const together = losses(preempted)
    expect([...together.keys()].sort((a, b) => a - b)).toEqual(Array.from({ length: steps }, (_, at) => at + 1))
    for (const [step, loss] of alone) expect(Math.abs((together.get(step) ?? Number.NaN) - loss)).toBeLessThan(1e-5)
  })
})
