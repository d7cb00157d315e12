import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { defaultStage } from '../../src/domain/stage/fields.ts'
import { parseAddress } from '../../src/runs/address.ts'
import { type AddressContext, resolveSide, resolveSides } from '../../src/runs/addresses.ts'
import { createRun } from '../../src/store/runs.ts'

describe('the form of an address', () => {
  test.each([
    ['a/b.yaml', { kind: 'recipe', file: 'a/b.yaml', stage: undefined }],
    ['b.YML#t2v-1', { kind: 'recipe', file: 'b.YML', stage: 't2v-1' }],
    ['v1.3/t2v-3', { kind: 'catalogue', version: 'v1.3', name: 't2v-3' }],
    ['train.sh', { kind: 'script', file: 'train.sh' }],
    ['v1.3.1:scripts/train.sh', { kind: 'upstream script', version: 'v1.3.1', path: 'scripts/train.sh' }],
    ['defaults', { kind: 'defaults', version: undefined }],
    ['defaults:v1.3.1', { kind: 'defaults', version: 'v1.3.1' }],
    ['latest', { kind: 'run', run: 'latest', checkpoint: undefined }],
    ['20261125-0610@40', { kind: 'run', run: '20261125-0610', checkpoint: 40 }],
    ['latest@best', { kind: 'run', run: 'latest', checkpoint: 'best' }],
  ])('%s', (text, address) => {
    expect(parseAddress(text)).toEqual(address)
  })

  test.each([
    '',
    '../runs/x',
    '/etc/passwd',
    '..',
    'a..b',
    'run@x',
    'run@-1',
    'a b',
    'v1.3.1:../../secret',
    'v1.3.1:/etc/passwd',
    'defaults:x',
    '.hidden',
  ])('%j is refused, since it could reach out of its folder or means nothing', (text) => {
    expect(() => parseAddress(text)).toThrow(expect.objectContaining({ code: 'ADDRESS_INVALID' }))
  })
})

describe('what an address stands for', () => {
  let context: AddressContext
  let id: string

  beforeAll(() => {
    const cwd = mkdtempSync(join(tmpdir(), 'stagewright-'))
    writeFileSync(join(cwd, 'r.yaml'), 'formatVersion: 1\nname: r\nstages:\n  - { name: one }\n  - { name: two, steps: 7 }\n')
    writeFileSync(join(cwd, 'one.yaml'), 'formatVersion: 1\nname: r\nstages: [{ name: only, steps: 3 }]\n')
    context = { cwd, runsFolder: join(cwd, 'runs') }
    const place = { runsFolder: context.runsFolder, now: new Date(0), random: (digits: number) => 'a'.repeat(digits), socketFolder: cwd }
    const inputs = { weights: null, vae: null, state: null, data: null }
    id = createRun(place, { ...defaultStage('two'), steps: 7 }, { recipe: null, verb: 'train', parent: null, inputs, contentHash: 'x' }).id
  })

  test('a stage of a recipe, the only stage of a recipe, our defaults and a run', async () => {
    expect((await resolveSide('r.yaml#two', context)).stage.steps).toBe(7)
    expect((await resolveSide('one.yaml', context)).stage.name).toBe('only')
    expect((await resolveSide('defaults', context)).stage).toEqual(defaultStage())
    const run = await resolveSide('latest', context)
    expect([run.label, run.stage.steps, run.origins.get('steps')]).toEqual([id, 7, { layer: 'run', name: id }])
  })

  test('--set comes on top of any of them', async () => {
    for (const address of ['r.yaml#two', 'defaults', 'latest']) {
      const side = await resolveSide(address, { ...context, set: ['steps=9', 'ema={ decay: 0.5 }'] })
      expect([side.stage.steps, side.stage.ema.decay, side.stage.ema.enabled, side.origins.get('steps')?.layer]).toEqual([
        9,
        0.5,
        true,
        'command line',
      ])
    }
  })

  test('a whole recipe has all its stages', async () => {
    expect((await resolveSides('r.yaml', context)).map(({ label }) => label)).toEqual(['r.yaml#one', 'r.yaml#two'])
  })

  test.each([
    ['r.yaml', 'ADDRESS_STAGE'],
    ['r.yaml#twoo', 'ADDRESS_STAGE'],
    ['none.yaml', 'CONFIG_FILE'],
    ['nothing', 'RUN_UNKNOWN'],
    ['latest@3', 'CHECKPOINT_MISSING'],
  ])('%s is refused with %s', async (address, code) => {
    await expect(resolveSide(address, context)).rejects.toMatchObject({ code })
  })
})
