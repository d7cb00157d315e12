import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { UserError } from '../../src/domain/errors.ts'
import { endOf } from '../../src/domain/run/state.ts'
import { defaultStage } from '../../src/domain/stage/fields.ts'
import { stageSchema } from '../../src/domain/stage/schema.ts'
import { attach } from '../../src/runs/attach.ts'
import { catalogueEntries, catalogueFolder, catalogueStage } from '../../src/runs/catalogue.ts'
import { withData } from '../../src/runs/chain.ts'
import { prepareRun, startRun } from '../../src/runs/launch.ts'
import { randomWeights, tinyStage } from '../../src/runs/tiny.ts'
import { runsWorldOf } from '../../src/runs-world.ts'
import { readState } from '../../src/store/runs.ts'

const names = catalogueEntries(catalogueFolder()).map(({ name }) => name)
const trainableClasses = ['OpenSoraT2V_v1_3', 'OpenSoraInpaint_v1_3', 'OpenSoraT2V', 'OpenSoraInpaint', 'LatteT2V', 'SparseUMMDiT']

/** Whether the trainer has this kind of stage; the others are refused by their name before anything is built. */
function isTrainable(name: string): boolean {
  const { kind, vae, model } = catalogueStage(name).stage
  if (vae.class === 'image' || kind === 'class-to-video') return false
  const isOldInpaint = kind === 'inpaint' && !model.rope
  return kind === 'vae' || (trainableClasses.includes(model.class) && !isOldInpaint)
}

describe('a stage made small', () => {
  test.each(names)('%s is a complete stage of the same kind, objective and schedule', (name) => {
    const { stage } = catalogueStage(name)
    const tiny = tinyStage(catalogueStage(name)).stage
    expect(stageSchema.parse(tiny)).toEqual(tiny)
    expect(tiny.kind).toBe(stage.kind)
    expect(tiny.objective).toEqual({ ...stage.objective, perceptualWeight: stage.objective.lpipsWeights === null ? 0 : expect.anything() })
    expect(tiny.schedule.name).toBe(stage.schedule.name)
    expect(tiny.optimizer).toEqual(stage.optimizer)
    expect(tiny.trainable).toEqual(stage.trainable)
    expect((tiny.shape.frames - 1) % (tiny.vae.stride[0] ?? 1)).toBe(0)
    expect(tiny.parallel.nodes * tiny.parallel.processes).toBe(1)
    expect(tiny.vae.weights).toBe(stage.kind === 'vae' ? null : randomWeights)
  })

  test('the perceptual term stays where its weights are at hand', () => {
    const base = defaultStage('v')
    const stage = stageSchema.parse({ ...base, objective: { ...base.objective, perceptualWeight: 1, lpipsWeights: 'lpips.safetensors' } })
    const tiny = tinyStage({ label: 'v', stage, origins: new Map(), findings: [] })
    expect(tiny.stage.objective.perceptualWeight).toBe(1)
  })
})

describe.runIf(process.env.STAGEWRIGHT_FULL === '1')('every stage of the catalogue', () => {
  const folder = mkdtempSync(join(tmpdir(), 'stagewright-tiny-'))
  const world = runsWorldOf({ cwd: folder, env: process.env, runsFolder: join(folder, 'runs') })
  const clips = join(folder, 'clips')

  test('trains small on real clips, or is refused as one the trainer has not', { timeout: 3_600_000 }, async () => {
    const { python, pythonPath } = world.python()
    const env = { ...process.env, PYTHONPATH: pythonPath }
    expect(spawnSync(python, ['-m', 'osplan.data.synthetic', clips, '--clips', '12'], { env }).status).toBe(0)
    const ends = new Map<string, string>()
    for (const name of names) {
      const side = tinyStage(withData(catalogueStage(name), clips))
      const { run } = await prepareRun(side, { verb: 'train' }, world)
      await startRun(run, world)
      for await (const _ of attach(run, world));
      const end = endOf(readState(run))
      const said = end?.reason === 'completed' ? '' : readFileSync(join(run.folder, 'trainer.jsonl'), 'utf8')
      ends.set(
        name,
        end?.reason === 'failed' && /"code":"(KIND_UNTRAINABLE|MODEL_CONFIG)"/.test(said) ? 'refused' : (end?.reason ?? 'none'),
      )
      console.log(`${name}: ${ends.get(name)}`)
      rmSync(run.folder, { recursive: true, force: true })
    }
    rmSync(folder, { recursive: true, force: true })
    expect([...ends]).toEqual(names.map((name) => [name, isTrainable(name) ? 'completed' : 'refused']))
  })
})

test('a random autoencoder is looked for nowhere', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'stagewright-tiny-'))
  const world = runsWorldOf({ cwd: folder, env: process.env, runsFolder: join(folder, 'runs') })
  const side = tinyStage(withData(catalogueStage('v1.3/t2v-3'), folder))
  const { run } = await prepareRun(side, { verb: 'train' }, world)
  expect(run.identity.inputs.vae).toBeNull()
  const misspelt = { ...side, stage: { ...side.stage, vae: { ...side.stage.vae, weights: 'randon' } } }
  await expect(prepareRun(misspelt, { verb: 'train' }, world)).rejects.toThrow(UserError)
  rmSync(folder, { recursive: true, force: true })
})
