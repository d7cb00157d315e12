import fc from 'fast-check'
import { expect, test } from 'vitest'
import { defaultStage } from '../../src/domain/stage/fields.ts'
import { type Stage, stageSchema } from '../../src/domain/stage/schema.ts'
import { memorySteps, type SuggestedSetting, suggestedSettings } from '../../src/domain/suggestion.ts'

const parent: Stage = stageSchema.parse({ ...defaultStage('parent'), kind: 'text-to-video', learningRate: 1e-4 })
const values = (settings: readonly SuggestedSetting[]) => Object.fromEntries(settings.map(({ path, value }) => [path, value]))

function applied(settings: readonly SuggestedSetting[]): Stage {
  const stage = structuredClone(parent) as Record<string, unknown>
  for (const { path, value } of settings) {
    const keys = path.split('.')
    const last = keys.pop() ?? ''
    const inner = keys.reduce<Record<string, unknown>>((at, key) => at[key] as Record<string, unknown>, stage)
    inner[last] = value
  }
  return stageSchema.parse(stage)
}

test('few clips freeze the lower blocks and thaw them later; many freeze nothing', () => {
  const few = values(suggestedSettings(parent, { clips: 300, gpus: 1, gpuBytes: 0 }))
  expect(few.trainable).toEqual(['all', `-blocks[0:${parent.model.layers / 2}]`])
  expect(few.phases).toMatchObject([{ at: 'plateau', trainable: ['all'] }])
  expect(values(suggestedSettings(parent, { clips: 20_000, gpus: 8, gpuBytes: 0 }))).not.toHaveProperty('trainable')
})

test('whatever a person has, the settings are a stage, smaller in rate than the parent’s, with clips left to train on', () => {
  const means = fc.record({
    clips: fc.integer({ min: 8, max: 1_000_000 }),
    gpus: fc.integer({ min: 1, max: 64 }),
    gpuBytes: fc.constant(0),
  })
  fc.assert(
    fc.property(means, (have) => {
      const settings = suggestedSettings(parent, have)
      const stage = applied(settings)
      for (const taken of memorySteps(parent, have).keys())
        applied([
          ...settings,
          ...memorySteps(parent, have)
            .slice(0, taken + 1)
            .flat(),
        ])
      expect(stage.learningRate).toBeLessThan(parent.learningRate)
      expect(stage.data.heldOutClips).toBeLessThan(have.clips)
      expect(stage.batch.accumulate * stage.parallel.processes).toBeLessThanOrEqual(Math.max(have.gpus, have.clips / 10))
      expect(stage.steps).toBeGreaterThanOrEqual(100)
      for (const { reason, source } of settings) expect(reason && source).toBeTruthy()
    }),
  )
})

test('what the parent froze for its own clips is not taken over where there are many, and one block is not cut in two', () => {
  const frozen = stageSchema.parse({ ...parent, trainable: ['head'], phases: [{ at: 6, trainable: ['all'] }] })
  const many = { clips: 20_000, gpus: 1, gpuBytes: 0 }
  expect(values(suggestedSettings(frozen, many))).toMatchObject({ trainable: ['all'], phases: [] })
  const flat = { ...parent, model: { ...parent.model, layers: 1 } }
  expect(
    memorySteps(flat, many)
      .flat()
      .filter(({ path }) => path === 'trainable'),
  ).toMatchObject([{ value: ['lora'] }])
})
