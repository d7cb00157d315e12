import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { defaultStage } from '../../src/domain/stage/fields.ts'
import { chooseRanks, ranksOf } from '../../src/store/ranks.ts'
import { createRun } from '../../src/store/runs.ts'

function made() {
  const stage = defaultStage('a')
  const folder = mkdtempSync(join(tmpdir(), 'ranks-'))
  return createRun(
    { runsFolder: folder, now: new Date(0), random: (digits) => '0'.repeat(digits), socketFolder: folder },
    { ...stage, batch: { perDevice: 1, accumulate: 4 } },
    {
      recipe: null,
      verb: 'train',
      parent: null,
      inputs: { weights: null, vae: null, state: null, data: null, cache: null },
      contentHash: 'x',
    },
  )
}

test('a run starts the ranks of its stage until others are chosen, which stay', () => {
  const run = made()
  expect(ranksOf(run)).toMatchObject({ nodes: 1, processes: 1 })
  chooseRanks(run, { processes: 2 })
  expect(ranksOf(run)).toMatchObject({ nodes: 1, processes: 2 })
  expect(() => chooseRanks(run, { processes: 3 })).toThrow(/GLOBAL_BATCH|global batch/)
  expect(ranksOf(run)).toMatchObject({ processes: 2 })
})

test('a broken choice is refused with the way out', () => {
  const run = made()
  writeFileSync(join(run.folder, 'ranks.json'), '{"formatVersion": 1, "nodes": 0')
  expect(() => ranksOf(run)).toThrow(expect.objectContaining({ code: 'RUN_INVALID', hint: expect.stringContaining('--processes 1') }))
})
