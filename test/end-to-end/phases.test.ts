import { readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { phaseCosts } from '../../src/domain/run/phase-costs.ts'
import { endOf } from '../../src/domain/run/state.ts'
import { attach } from '../../src/runs/attach.ts'
import { withData } from '../../src/runs/chain.ts'
import { continueRun, prepareRun, startRun } from '../../src/runs/launch.ts'
import { findCheckpoint } from '../../src/store/checkpoints.ts'
import { type Run, readState } from '../../src/store/runs.ts'
import { sideOf, tinyStages, tinyWorld } from './tiny-stages.ts'

/* Head, then upper blocks, then everything, on real clips, broken off in each. The loop alone has a quick test of the same. */
const isFull = process.env.STAGEWRIGHT_FULL === '1'
const { world, data } = tinyWorld()

afterAll(() => rmSync(world.cwd, { recursive: true, force: true }))

const stage = {
  ...tinyStages.first,
  name: 'phases',
  steps: 18,
  batch: { perDevice: 2, accumulate: 1 },
  vae: { ...tinyStages.first.vae, weights: 'random' },
  trainable: ['head'],
  phases: [
    { at: 6, trainable: ['head', 'blocks[2:4]'], rewarmSteps: 2 },
    { at: 12, trainable: ['all'] },
  ],
  checkpoint: { everySteps: 4, keepLast: 2 },
}

async function prepared(): Promise<Run> {
  return (await prepareRun(withData(sideOf(stage), data), { verb: 'train' }, world)).run
}

/** Follows a run to its end; kills its ranks once they come to a step, where one is named. */
async function followed(run: Run, killAt = Number.POSITIVE_INFINITY): Promise<void> {
  let pids: readonly number[] = []
  for await (const { event } of attach(run, world)) {
    if (event.event === 'ready') pids = event.pids
    if (event.event !== 'step' || event.step < killAt) continue
    for (const pid of pids) process.kill(pid, 'SIGKILL')
    pids = []
  }
}

/** The last weights and averages, as bytes. */
function weights(run: Run): Buffer[] {
  const { folder } = findCheckpoint(run, 18)
  return ['model', 'model_ema'].map((part) => readFileSync(join(folder, part, 'diffusion_pytorch_model.safetensors')))
}

test.runIf(isFull)(
  'three phases broken off and gone on with end with the weights of an unbroken run, frozen tensors as they were',
  {
    timeout: 300_000,
  },
  async () => {
    const unbroken = await prepared()
    await startRun(unbroken, world)
    await followed(unbroken)
    const state = readState(unbroken)
    expect(endOf(state)).toMatchObject({ reason: 'completed' })
    expect(state.proofs.map(({ index, frozenChanged, trainableUnmoved }) => [index, frozenChanged, trainableUnmoved])).toMatchObject([
      [0, [], []],
      [1, [], []],
      [2, [], expect.anything()],
    ])
    expect(state.proofs.map(({ frozen, trainable }) => [frozen > 0, trainable > 0])).toEqual([
      [true, true],
      [true, true],
      [false, true],
    ])
    const costs = phaseCosts(state)
    expect(costs.map(({ from, to }) => [from, to])).toEqual([
      [1, 6],
      [7, 12],
      [13, 18],
    ])
    for (const { secondsPerStep } of costs) expect(secondsPerStep).toBeGreaterThan(0)

    const broken = await prepared()
    const kills = [0, 6, 12].map((start) => start + 1 + Math.floor(Math.random() * 5))
    console.log(`killed at ${kills.join(', ')}`)
    await startRun(broken, world)
    for (const at of kills) {
      await followed(broken, at)
      expect(endOf(readState(broken))).toMatchObject({ reason: 'killed' })
      await continueRun(broken, world)
    }
    await followed(broken)
    expect(endOf(readState(broken))).toMatchObject({ reason: 'completed' })
    const [ended, expected] = [weights(broken), weights(unbroken)]
    expect(ended.map((bytes, part) => bytes.equals(expected[part] as Buffer))).toEqual([true, true])
  },
)
