import { expect, test } from 'vitest'
import { loadRecipe } from '../../src/config/recipe.ts'
import { recipeText } from '../../src/config/suggested-recipe.ts'

const text = recipeText({
  name: 'mine',
  extends: 'parent.yaml#base',
  init: { weights: 'folder', use: 'raw' },
  vae: undefined,
  settings: [
    { path: 'learningRate', value: 5e-6, reason: 'half of the parent’s', source: 'upstream' },
    { path: 'batch.accumulate', value: 4, reason: 'four passes', source: 'rule' },
    { path: 'batch.perDevice', value: 1, reason: 'least memory', source: 'rule' },
    { path: 'data.heldOutClips', value: 30, reason: 'a tenth', source: 'rule' },
    { path: 'heldOut.everySteps', value: 50, reason: 'twenty looks', source: 'rule' },
    { path: 'phases', value: [{ at: 'plateau', trainable: ['all'], rewarmSteps: 50 }], reason: 'later', source: 'paper' },
  ],
  head: ['For 300 clips.'],
})

test('a suggested recipe has the reason and source of each setting above it', () => {
  expect(text).toContain('# For 300 clips.\n')
  expect(text).toContain('    # half of the parent’s [upstream]\n    learningRate: 0.000005\n')
  expect(text).toContain('      # four passes [rule]\n      accumulate: 4\n      # least memory [rule]\n      perDevice: 1\n')
})

test('it loads as what was suggested, on top of its parent', () => {
  const parent = 'formatVersion: 1\nname: p\nstages:\n  - { name: base, kind: text-to-video, batch: { perDevice: 8 }, seed: 7 }\n'
  const files: Record<string, string> = { 'mine.yaml': text, 'parent.yaml': parent }
  const [side] = loadRecipe('mine.yaml', { readFile: (path) => files[path] ?? '' }).stages
  expect(side?.stage).toMatchObject({ name: 'mine', seed: 7, learningRate: 5e-6, batch: { perDevice: 1, accumulate: 4 } })
  expect(side?.stage.phases).toEqual([{ at: 'plateau', trainable: ['all'], rewarmSteps: 50 }])
})
