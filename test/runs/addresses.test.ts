import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
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
    const cwd = join(mkdtempSync(join(tmpdir(), 'stagewright-')), 'here')
    mkdirSync(cwd)
    writeFileSync(join(cwd, 'r.yaml'), 'formatVersion: 1\nname: r\nstages:\n  - { name: one }\n  - { name: two, steps: 7 }\n')
    writeFileSync(join(cwd, 'one.yaml'), 'formatVersion: 1\nname: r\nstages: [{ name: only, steps: 3 }]\n')
    context = { cwd, runsFolder: join(cwd, 'runs') }
    const place = { runsFolder: context.runsFolder, now: new Date(0), random: (digits: number) => 'a'.repeat(digits), socketFolder: cwd }
    const inputs = { weights: null, vae: null, state: null, data: null, cache: null }
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

  test('a finding about a value that --set replaces is gone, the others stay', async () => {
    const about = async (...set: string[]) =>
      (await resolveSide('v1.5/t2v-1', { ...context, set })).findings.map(({ rule, paths }) => `${rule} ${paths[0]}`)
    expect(await about()).toContain('report-disagrees steps')
    expect(await about('learningRate=1e-5')).toEqual(await about())
    expect(await about('steps=10')).toEqual((await about()).filter((finding) => finding !== 'report-disagrees steps'))
  })

  test('a stage that extends a published one is not held against the report its parent differs from', async () => {
    const text = 'formatVersion: 1\nname: r\nstages:\n  - { name: mine, extends: published.yaml#t2v-1, steps: 10 }\n'
    writeFileSync(join(context.cwd, 'published.yaml'), readFileSync('configs/upstream/v1.5/t2v-1.yaml'))
    writeFileSync(join(context.cwd, 'mine.yaml'), text)
    expect((await resolveSide('mine.yaml#mine', context)).findings.filter(({ rule }) => rule === 'report-disagrees')).toEqual([])
    expect((await resolveSide('v1.5/t2v-2', context)).findings.filter(({ rule }) => rule === 'report-disagrees')).toHaveLength(1)
  })

  test('a script has a side per launch, its trainer’s defaults filled in', async () => {
    const launch = (rate: string) =>
      `accelerate launch opensora/train/train_t2v_diffusers.py \\\n  --learning_rate=${rate} --model OpenSoraT2V_v1_3-2B/122\n`
    writeFileSync(join(context.cwd, 'one.sh'), launch('2e-05'))
    writeFileSync(join(context.cwd, 'two.sh'), launch('1e-4') + launch('2e-5'))
    writeFileSync(join(context.cwd, 'none.sh'), 'echo nothing\n')
    const one = await resolveSide('one.sh', context)
    expect([one.stage.learningRate, one.trainerVersion?.startsWith('v1.3')]).toEqual([2e-5, true])
    expect(one.origins.get('learningRate')).toMatchObject({ layer: 'script', file: 'one.sh', line: 2, name: 'learning_rate' })
    expect((await resolveSides('two.sh', context)).map(({ stage }) => stage.learningRate)).toEqual([1e-4, 2e-5])
    await expect(resolveSide('two.sh', context)).rejects.toMatchObject({ code: 'ADDRESS_STAGE' })
    await expect(resolveSide('none.sh', context)).rejects.toMatchObject({ code: 'SCRIPT_LAUNCH' })
    await expect(resolveSide('gone.sh', context)).rejects.toMatchObject({ code: 'SCRIPT_FILE' })
  })

  test('a script names files inside its own tree only', async () => {
    writeFileSync(join(context.cwd, '..', 'outside.yaml'), 'num_processes: 64\n')
    const launch = (config: string) => `accelerate launch --config_file ${config} opensora/train/train_t2v_diffusers.py\n`
    writeFileSync(join(context.cwd, 'inside.yaml'), 'num_processes: 8\n')
    writeFileSync(join(context.cwd, 'in.sh'), launch('inside.yaml'))
    writeFileSync(join(context.cwd, 'out.sh'), launch('../outside.yaml'))
    expect((await resolveSide('in.sh', context)).stage.parallel.processes).toBe(8)
    expect((await resolveSide('out.sh', context)).stage.parallel.processes).toBe(1)
  })

  test('defaults of a version are those of its trainer', async () => {
    const [old, newer] = [await resolveSide('defaults:v1.2.0', context), await resolveSide('defaults:v1.3.1', context)]
    expect([old.trainerVersion, newer.trainerVersion]).toEqual(['v1.2.0', 'v1.3.1'])
    expect([old.stage.ema.decay, newer.stage.ema.decay]).toEqual([0.999, 0.9999])
  })

  test('a script at a version is read from a checkout', async () => {
    const checkout = join(context.cwd, 'checkout')
    const git = (...args: string[]) =>
      execFileSync('git', ['-C', checkout, '-c', 'user.name=a', '-c', 'user.email=a@b', ...args], { stdio: 'ignore' })
    mkdirSync(checkout)
    writeFileSync(join(checkout, 'train.sh'), 'accelerate launch opensora/train/train_t2v_diffusers.py --max_train_steps 12\n')
    git('init')
    git('add', '.')
    git('commit', '-m', 'a')
    git('tag', 'v1.3.1')
    const upstream = { ...context, upstreamCheckout: checkout }
    expect((await resolveSide('v1.3.1:train.sh', upstream)).stage.steps).toBe(12)
    await expect(resolveSide('v1.3.1:gone.sh', upstream)).rejects.toMatchObject({ code: 'SCRIPT_FILE' })
    await expect(resolveSide('v1.3.1:train.sh', context)).rejects.toMatchObject({ code: 'UPSTREAM_CHECKOUT' })
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
