import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { readConfigFile } from '../../../src/config/source.ts'
import { loadSweep } from '../../../src/config/sweep-file.ts'
import type { SweepInput } from '../../../src/domain/sweep/schema.ts'
import { type SweepChoice, sweepFor } from '../../../src/runs/sweep/begin.ts'
import type { RunsWorld } from '../../../src/runs/world.ts'
import type { Sweep } from '../../../src/store/sweeps.ts'

/** A recipe of two stages for the fake trainer: `second` starts from the weights of `first`. */
const recipe = `
formatVersion: 1
name: two
stages:
  - name: first
    steps: 20
    checkpoint: { everySteps: 10 }
    data: { heldOutClips: 2 }
  - name: second
    extends: first
    steps: 40
    init: { weights: 'stage:first' }
`

/** A sweep over the learning rate of the second stage, with other keys on top; its recipe is written. */
export function sweepInput(folder: string, keys: Record<string, unknown> = {}): SweepInput {
  writeFileSync(join(folder, 'two.yaml'), recipe)
  return {
    formatVersion: 1,
    name: 'rates',
    recipe: join(folder, 'two.yaml'),
    stage: 'second',
    space: { learningRate: { min: 1e-5, max: 1e-1, log: true } },
    budget: { trials: 4 },
    sampler: { name: 'random', seed: 1 },
    warmPool: false,
    ...keys,
  }
}

/** The same as a file. */
export function writtenSweep(folder: string, keys: Record<string, unknown> = {}): string {
  const file = join(folder, 'rates.yaml')
  writeFileSync(file, JSON.stringify(sweepInput(folder, keys)))
  return file
}

export function madeSweep(world: RunsWorld, keys: Record<string, unknown> = {}, choice: SweepChoice = {}): Sweep {
  return sweepFor(loadSweep(writtenSweep(world.cwd, keys), { readFile: readConfigFile }), choice, world)
}

/** What makes a sampler that learns and a pruner suggest the same wherever trials train: some trials, two at a time. */
export const ordered = (trials: number) => ({
  deterministic: true,
  parallel: 2,
  budget: { trials },
  sampler: { name: 'tpe', seed: 5, startup: 2 },
  pruner: { name: 'asha', warmupSteps: 10, reduction: 2 },
})
