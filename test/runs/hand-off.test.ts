import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { defaultStage } from '../../src/domain/stage/fields.ts'
import { describeHandOff, findWeights } from '../../src/runs/hand-off.ts'
import { createRun, filesOf, type Run } from '../../src/store/runs.ts'

let folder: string
let run: Run
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'hand-off-'))
  run = made('parent', 1)
  checkpoint(run, 100, 0.5)
  checkpoint(run, 200, 0.25)
  checkpoint(run, 300, 0.75)
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

function made(stage: string, second: number): Run {
  const identity = {
    recipe: null,
    verb: 'train',
    parent: null,
    inputs: { weights: null, vae: null, state: null, data: null, cache: null },
    contentHash: 'x',
  } as const
  const now = new Date(Date.UTC(2026, 10, 25, 6, 1, second))
  const place = { runsFolder: join(folder, 'runs'), now, random: (digits: number) => 'ab'.repeat(digits).slice(0, digits) }
  return createRun({ ...place, socketFolder: folder }, defaultStage(stage), identity)
}

function checkpoint(of: Run, step: number, loss: number, parts = ['model', 'model_ema']): void {
  const at = join(filesOf(of.folder).checkpoints, `step-${String(step).padStart(8, '0')}`)
  const names = parts.map((part) => `${part}/diffusion_pytorch_model.safetensors`)
  for (const name of names) {
    mkdirSync(dirname(join(at, name)), { recursive: true })
    writeFileSync(join(at, name), 'abc')
  }
  const files = Object.fromEntries(names.map((name) => [name, { bytes: 3, sha256: `${name.slice(0, name.indexOf('/'))} of ${step}` }]))
  const heldOut = { raw: { loss }, ema: { loss } }
  writeFileSync(join(at, 'manifest.json'), JSON.stringify({ formatVersion: 1, step, attempt: 1, stageHash: 'x', heldOut, files }))
}

const where = (earlier: [string, Run][] = []) => ({ cwd: folder, runsFolder: join(folder, 'runs'), earlier: new Map(earlier) })

describe('the weights of an address', () => {
  test.each([
    ['latest', 'ema', 300, 'model_ema'],
    ['latest', 'raw', 300, 'model'],
    ['latest', 'best', 200, 'model_ema'],
    ['latest@100', 'ema', 100, 'model_ema'],
    ['latest@best', 'raw', 200, 'model'],
  ] as const)('%s, %s: those of step %i in %s', (address, use, step, part) => {
    const found = findWeights(address, use, where())
    expect(found.path).toBe(join(filesOf(run.folder).checkpoints, `step-00000${step}`, part))
    expect(found.parent).toEqual({ run: run.id, step, use, sha256: `${part} of ${step}` })
  })

  test('of a stage of the same recipe are those its run has trained, and there are none before', () => {
    expect(findWeights('stage:one', 'best', where([['one', run]])).parent).toMatchObject({ run: run.id, step: 200 })
    expect(() => findWeights('stage:two', 'ema', where([['one', run]]))).toThrow(expect.objectContaining({ code: 'WEIGHTS_MISSING' }))
  })

  test('that is a path are taken as they lie, counted from the working folder', () => {
    mkdirSync(join(folder, 'published'))
    expect(findWeights('published', 'ema', where())).toEqual({ path: join(folder, 'published'), parent: null })
  })

  test('without a moving average are refused as one, and handed on raw as the best', () => {
    const bare = made('bare', 2)
    checkpoint(bare, 50, 0.5, ['model'])
    expect(() => findWeights(bare.id, 'ema', where())).toThrow(
      expect.objectContaining({
        code: 'WEIGHTS_MISSING',
        message: `${bare.id}@50: expected a moving average, got raw weights only`,
        hint: 'set init.use to raw',
      }),
    )
    expect(findWeights(bare.id, 'best', where()).parent).toMatchObject({ step: 50, sha256: 'model of 50' })
  })

  test('are refused where nothing answers to the address', () => {
    expect(() => findWeights('no/such/folder', 'ema', where())).toThrow(expect.objectContaining({ code: 'WEIGHTS_MISSING' }))
    expect(() => findWeights('t2v.pt', 'ema', where())).toThrow(expect.objectContaining({ code: 'WEIGHTS_MISSING' }))
    expect(() => findWeights('latest@999', 'ema', where())).toThrow(expect.objectContaining({ code: 'CHECKPOINT_MISSING' }))
    expect(() => findWeights('unknown-run', 'ema', where())).toThrow(expect.objectContaining({ code: 'RUN_UNKNOWN' }))
  })
})

describe('a hand-off says', () => {
  const parts = (verb: 'train' | 'continue' | 'branch' | 'advance') => {
    const { carried, rebuilt, reset } = describeHandOff(verb, 'step 3', defaultStage('small'))
    return { carried, reset, rebuilt }
  }

  test('that continue keeps everything', () => {
    expect(parts('continue')).toMatchObject({
      carried: expect.arrayContaining(['step', 'optimiser state', 'position in the data']),
      reset: [],
    })
  })

  test('that branch keeps the optimiser and begins at step one', () => {
    expect(parts('branch')).toMatchObject({ carried: expect.arrayContaining(['optimiser state']), reset: expect.arrayContaining(['step']) })
  })

  test('that advance keeps the weights alone', () => {
    const { carried, reset } = parts('advance')
    expect(carried).toEqual(['weights (ema)'])
    expect(reset).toEqual(expect.arrayContaining(['step', 'optimiser state', 'moving average', 'live changes']))
  })
})
