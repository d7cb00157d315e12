import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { stageSchema } from '../../src/domain/stage/schema.ts'
import { choiceFor, namedWeights, trainedAsSaid } from '../../src/runs/weight-changes.ts'
import { runsWorldOf } from '../../src/runs-world.ts'
import type { Run } from '../../src/store/runs.ts'
import type { TensorChange } from '../../src/weights/weight-diff.ts'
import { tinyStages } from '../end-to-end/tiny-stages.ts'

const folder = mkdtempSync(join(tmpdir(), 'said-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

test('a path is taken as it is, whatever runs are called; anything else is looked for among them', () => {
  mkdirSync(join(folder, 'latest'))
  const place = { cwd: folder, runsFolder: join(folder, 'runs') }
  expect(namedWeights('latest', place)).toEqual({ path: join(folder, 'latest'), run: undefined })
  expect(() => namedWeights('gone', place)).toThrow(expect.objectContaining({ code: 'RUN_UNKNOWN' }))
  expect(choiceFor(undefined, [namedWeights('latest', place)])).toBeUndefined()
})

test('what changed is held against what the stage said would train in any phase', async () => {
  const world = runsWorldOf({ cwd: folder, env: process.env, runsFolder: join(folder, 'runs') })
  const run = { id: 'run', stage: stageSchema.parse({ ...tinyStages.second, phases: [] }) } as Run
  const weight = (block: number) => `transformer_blocks.${block}.attn1.to_q.weight`
  const changed = (name: string): TensorChange => ({ kind: 'changed', name, dtypes: ['F32', 'F32'], parameters: 1, distance: undefined })
  const diff = { same: 2, modules: [], changes: [changed(weight(0)), changed(weight(2))] }
  const names = [0, 1, 2, 3].map(weight)
  expect(await trainedAsSaid(run, diff, names, world)).toEqual({ run: 'run', frozenChanged: [weight(0)], trainableSame: [weight(3)] })
}, 60_000)
