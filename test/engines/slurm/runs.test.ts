import { afterAll, beforeAll, describe, expect, vi } from 'vitest'
import { slurmSettings } from '../../../src/domain/engine-choice.ts'
import { endOf } from '../../../src/domain/run/state.ts'
import { readState } from '../../../src/store/runs.ts'
import { type Behaviour, fakeWorld, folderTest, followed, launched, until } from '../../runs/fake-world.ts'
import { SlurmBox, whyNoSlurm } from './box.ts'

vi.setConfig({ testTimeout: 90_000, maxConcurrency: 4 })

const reason = whyNoSlurm()
let box: SlurmBox
beforeAll(async () => {
  if (!reason) box = await SlurmBox.start()
})
afterAll(async () => {
  await box?.stop()
})

const test = folderTest
const world = (folder: string, behaviour: Behaviour = {}, settings: object = {}) =>
  fakeWorld(folder, behaviour, {
    env: { ...box.env, STAGEWRIGHT_SLURM_POLL_SECONDS: '0.3' },
    engine: { formatVersion: 1, kind: 'slurm', slurm: slurmSettings.parse({ memory: '50M', ...settings }) },
  })
const cpu = { memory: { device: 'cpu' } }

describe.skipIf(reason !== undefined).concurrent(`a run on a cluster${reason ? ` (${reason})` : ''}`, () => {
  test('trains over two machines to its end', async ({ folder }) => {
    const runs = world(folder)
    const run = await launched(runs, { ...cpu, steps: 30, parallel: { nodes: 2, processes: 2 } })
    const events = await followed(run, runs)
    expect(events.at(-1)?.event).toMatchObject({ event: 'ended', reason: 'completed', exitCode: 0 })
    expect(events.find(({ event }) => event.event === 'ready')?.event).toMatchObject({ worldSize: 4 })
    expect(readState(run).attempts[0]).toMatchObject({ engine: 'slurm', handle: { kind: 'slurm' } })
  })

  test('that is preempted leaves a checkpoint, comes back and goes on from it', async ({ folder }) => {
    const runs = world(folder, { stepMs: 20 })
    const run = await launched(runs, { ...cpu, steps: 400, parallel: { nodes: 2 } })
    await until(run, runs, 'step', 10)
    box.run('sbatch', '-p', 'high', '-N2', '--exclusive', '--mem=100', '--output=/dev/null', '--wrap', 'sleep 1')
    const events = await followed(run, runs)
    const told = events.map(({ event }) => event)
    const started = told.filter((event) => event.event === 'started').map(({ step }) => step)
    const paused = told.find((event) => event.event === 'finished')
    expect(paused).toMatchObject({ reason: 'paused' })
    expect(started).toEqual([0, paused?.step])
    expect(told).toContainEqual(expect.objectContaining({ event: 'waiting', restarts: 1 }))
    expect(readState(run).attempts).toHaveLength(1)
    expect(endOf(readState(run))).toMatchObject({ reason: 'completed', step: 400 })
  })
})
