import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { claimsOfName } from '../../../src/domain/findings/name-rules.ts'
import { stageFindings, stageRules } from '../../../src/domain/findings/stage-findings.ts'
import type { StageSide } from '../../../src/domain/stage/origin.ts'
import { type StageInput, stageSchema } from '../../../src/domain/stage/schema.ts'

function side(input: Partial<StageInput>): StageSide {
  return { label: 'a', stage: stageSchema.parse({ name: 'a', ...input }), origins: new Map(), findings: [] }
}

const found = (stage: Partial<StageInput>, parent?: Partial<StageInput>) =>
  stageFindings(side(stage), parent && side(parent)).map(({ rule, severity }) => `${severity} ${rule}`)

const child = { init: { weights: 'stage:a' }, learningRate: 1e-5 }

test('a stage that lowers the learning rate and changes nothing else is fine', () => {
  expect(found(child, { learningRate: 1e-4 })).toEqual([])
})

test('a raised learning rate warns, a kept one is mentioned', () => {
  expect(found({ ...child, learningRate: 2e-4 }, { learningRate: 1e-4 })).toEqual(['warn learning-rate-raised'])
  expect(found({ ...child, learningRate: 1e-4 }, { learningRate: 1e-4 })).toEqual(['info learning-rate-kept'])
})

test('another objective, text encoder or autoencoder than the parent’s warns', () => {
  const rules = found(
    { ...child, objective: { name: 'rectified-flow' }, text: { encoder: 'b/t5' }, vae: { name: 'WFVAEModel_D8_4x8x8' } },
    { vae: { name: 'CausalVAEModel_D8_4x8x8', class: 'CausalVAEModel' }, text: { encoder: 'a/mt5' } },
  )
  expect(rules).toEqual(expect.arrayContaining(['warn objective-changed', 'warn text-encoder-changed', 'warn autoencoder-changed']))
})

test('the same encoder in another folder is no change', () => {
  expect(found({ ...child, text: { encoder: '/b/mt5-xxl/' } }, { text: { encoder: 'google/mt5-xxl' } })).toEqual([])
})

test('weights from a folder the parent does not write are an error, the parent’s own start a warning', () => {
  const parent = { output: 'runs/65x512_a', init: { weights: 't2v.pt' }, learningRate: 1e-4 }
  expect(found({ init: { weights: '221x512_b/checkpoint-5/model.safetensors' }, learningRate: 1e-5 }, parent)).toContain(
    'error init-not-parent',
  )
  expect(found({ init: { weights: 't2v.pt' }, learningRate: 1e-5 }, parent)).toContain('warn init-not-parent')
})

test('names are read as upstream writes them', () => {
  expect(claimsOfName('65x512x512_10node_bs2_lr2e-5_4img')).toEqual({ frames: 65, height: 512, nodes: 10, batch: 2, learningRate: 2e-5 })
  expect(claimsOfName('train_video3d_29x720p')).toEqual({ frames: 29, height: 720 })
  expect(claimsOfName('t2v-f65-256-img4-bs4-lr2e-5')).toEqual({ frames: 65, height: 256, batch: 4, learningRate: 2e-5 })
  expect(claimsOfName('wfvae_93')).toEqual({})
})

test('a name that says another learning rate warns', () => {
  expect(found({ output: 'x_lr2e-6', learningRate: 1e-5 })).toEqual(['warn name-contradicts-value'])
  expect(found({ output: 'x_lr1e-5', learningRate: 1e-5 })).toEqual([])
})

test('a name that is wrong in several ways is one finding that points at all of them', () => {
  const [finding, ...more] = stageFindings(side({ output: 'x_lr2e-6_bs2', learningRate: 1e-5, batch: { perDevice: 4 } }))
  expect(more).toEqual([])
  expect(finding?.message).toBe(
    'output: x_lr2e-6_bs2 says learningRate 0.000002, the stage has 0.00001; batch.perDevice 2, the stage has 4',
  )
  expect(finding?.paths).toEqual(['output', 'learningRate', 'batch.perDevice'])
})

test('every rule has a name of its own, a reason, a source and a line in the guide', () => {
  const guide = readFileSync(new URL('../../../docs/upstream-scripts.md', import.meta.url), 'utf8')
  const names = stageRules.map(({ name }) => name)
  expect(new Set(names).size).toBe(names.length)
  expect(names.filter((name) => !guide.includes(`\`${name}\``))).toEqual([])
  expect(stageRules.filter(({ hint, source }) => hint === '' || source === '')).toEqual([])
})
