import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { defaultStage } from '../../src/domain/stage/fields.ts'
import { checkpointsOf, findCheckpoint, verifyCheckpoint } from '../../src/store/checkpoints.ts'
import { createRun, filesOf, findRun, listRuns, openRun, type Run } from '../../src/store/runs.ts'

let runsFolder: string
beforeEach(() => {
  runsFolder = mkdtempSync(join(tmpdir(), 'runs-'))
})
afterEach(() => rmSync(runsFolder, { recursive: true, force: true }))

const identity = {
  recipe: null,
  verb: 'train',
  parent: null,
  inputs: { weights: null, vae: null, state: null, data: null, cache: null },
  contentHash: 'x',
} as const

function made(stage: string, second: number, hex = 'abcd', socketFolder = '/run'): Run {
  const now = new Date(Date.UTC(2026, 10, 25, 6, 1, second))
  return createRun({ runsFolder, now, random: (digits) => hex.repeat(3).slice(0, digits), socketFolder }, defaultStage(stage), identity)
}

describe('a run folder', () => {
  test('has an id of date, time, stage and four digits, and is for its owner alone', () => {
    const run = made('t2v-1', 5)
    expect(run.id).toBe('20261125-060105-t2v-1-abcd')
    expect(statSync(run.folder).mode & 0o777).toBe(0o700)
    for (const file of [filesOf(run.folder).identity, filesOf(run.folder).stage]) expect(statSync(file).mode & 0o777).toBe(0o600)
    expect(openRun(run.folder)).toEqual(run)
    expect(readdirSync(run.folder).filter((name) => name.endsWith('.tmp'))).toEqual([])
  })

  test('is never made over another one', () => {
    made('t2v-1', 5)
    expect(() => made('t2v-1', 5)).toThrow('EEXIST')
  })

  test('a socket path that the system would cut off is refused', () => {
    expect(() => made('t2v-1', 5, 'abcd', `/${'x'.repeat(90)}`)).toThrow(expect.objectContaining({ code: 'SOCKET_PATH' }))
  })

  test('a folder that is no run is refused, and left alone in a list', () => {
    const run = made('t2v-1', 5)
    mkdirSync(join(runsFolder, '20261125-060106-half-0000'))
    writeFileSync(join(runsFolder, 'notes.txt'), '')
    const broken = join(runsFolder, '20261125-060107-broken-0000')
    mkdirSync(broken)
    writeFileSync(join(broken, 'run.json'), '{"formatVersion": 2}')
    expect(listRuns(runsFolder).map(({ id }) => id)).toEqual([run.id])
    expect(() => openRun(broken)).toThrow(expect.objectContaining({ code: 'RUN_INVALID' }))
    expect(listRuns(join(runsFolder, 'nowhere'))).toEqual([])
  })
})

describe('finding a run', () => {
  test('by id, by its beginning, by its stage, or the latest', () => {
    const [first, second] = [made('vae', 1), made('t2v-1', 2)]
    expect(findRun(runsFolder, first.id).id).toBe(first.id)
    expect(findRun(runsFolder, '20261125-060101').id).toBe(first.id)
    expect(findRun(runsFolder, 'vae').id).toBe(first.id)
    expect(findRun(runsFolder, 'latest').id).toBe(second.id)
  })

  test('of two made in the same second the later is the latest, whatever their names', () => {
    const first = made('z', 1)
    const second = made('a', 1)
    const identityOf = (run: Run) => JSON.parse(readFileSync(filesOf(run.folder).identity, 'utf8')) as object
    writeFileSync(filesOf(second.folder).identity, JSON.stringify({ ...identityOf(second), createdAt: '2026-11-25T06:01:01.500Z' }))
    expect(findRun(runsFolder, 'latest').id).toBe(second.id)
    expect(listRuns(runsFolder).map(({ id }) => id)).toEqual([first.id, second.id])
  })

  test.each(['', '.', '..', '../x', '/etc', '%2e', '*', 'latest/..'])('“%s” is no address of a run', (address) => {
    made('vae', 1)
    expect(() => findRun(runsFolder, address)).toThrow(expect.objectContaining({ code: 'RUN_UNKNOWN' }))
  })

  test('an unclear, an unknown and an empty one are told apart', () => {
    expect(() => findRun(runsFolder, 'latest')).toThrow(expect.objectContaining({ code: 'RUN_UNKNOWN' }))
    made('vae', 1)
    made('t2v-1', 2)
    expect(() => findRun(runsFolder, '2026')).toThrow(expect.objectContaining({ code: 'RUN_AMBIGUOUS' }))
    expect(() => findRun(runsFolder, 'x')).toThrow(expect.objectContaining({ code: 'RUN_UNKNOWN' }))
  })
})

describe('checkpoints', () => {
  function checkpoint(run: Run, step: number, heldOut: unknown, options: { bytes?: number; manifest?: boolean } = {}): string {
    const folder = join(filesOf(run.folder).checkpoints, `step-${String(step).padStart(8, '0')}`)
    mkdirSync(join(folder, 'model_ema'), { recursive: true })
    writeFileSync(join(folder, 'model_ema', 'w'), 'abc')
    const sha256 = 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'
    const files = { 'model_ema/w': { bytes: options.bytes ?? 3, sha256 } }
    const manifest = { formatVersion: 1, step, attempt: 1, stageHash: 'x', heldOut, files }
    if (options.manifest !== false) writeFileSync(join(folder, 'manifest.json'), JSON.stringify(manifest))
    return folder
  }
  const losses = (ema: unknown, raw: unknown = 9) => ({ raw: { loss: raw }, ema: { loss: ema } })

  test('those without a manifest or with a short file are passed over', () => {
    const run = made('vae', 1)
    checkpoint(run, 100, null)
    checkpoint(run, 200, null, { bytes: 4 })
    checkpoint(run, 300, null, { manifest: false })
    mkdirSync(join(filesOf(run.folder).checkpoints, '.step-00000400.1.tmp'))
    expect(checkpointsOf(run).map(({ step }) => step)).toEqual([100])
    expect(findCheckpoint(run, undefined).step).toBe(100)
    expect(() => findCheckpoint(run, 200)).toThrow(
      expect.objectContaining({
        code: 'CHECKPOINT_MISSING',
        message: `${run.id}: expected a complete checkpoint of step 200, got those of steps 100`,
      }),
    )
  })

  test('the best has the lowest held-out loss of the moving average; of equals the earlier; one that is no number never', () => {
    const run = made('vae', 1)
    checkpoint(run, 100, losses(0.5))
    checkpoint(run, 200, losses(0.25))
    checkpoint(run, 300, losses(0.25, 0.1))
    checkpoint(run, 400, losses({ $f: 'nan' }))
    checkpoint(run, 500, null)
    expect(findCheckpoint(run, 'best').step).toBe(200)
  })

  test('a file of right length and wrong content is found by its hash', async () => {
    const run = made('vae', 1)
    const folder = checkpoint(run, 100, null)
    await expect(verifyCheckpoint(findCheckpoint(run, 100))).resolves.toBeUndefined()
    writeFileSync(join(folder, 'model_ema', 'w'), 'abd')
    await expect(verifyCheckpoint(findCheckpoint(run, 100))).rejects.toMatchObject({ code: 'CHECKPOINT_DAMAGED' })
  })
})
