import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { loadSweep, sweepHash } from '../../src/config/sweep-file.ts'

const recipe = `
formatVersion: 1
name: three
stages:
  - { name: a, data: { heldOutClips: 2 } }
  - { name: other }
  - { name: b, extends: a, init: { weights: 'stage:a' } }
`

function loaded(text: string) {
  const files: Record<string, string> = { 'r.yaml': recipe, 's.yaml': `formatVersion: 1\nname: s\nrecipe: r.yaml\nstage: b\n${text}` }
  return loadSweep('s.yaml', { readFile: (path) => files[path] ?? '' })
}

describe('a sweep file', () => {
  test('may nest an expression deeply, and is refused where that has no end', () => {
    const space = 'space: { batch.perDevice: { values: [2] } }\nbudget: { trials: 1 }\n'
    const nested = (levels: number) => `${space}constraints: ["${'('.repeat(levels)}1${')'.repeat(levels)} == 1"]`
    expect(loaded(nested(90)).sweep.constraints).toHaveLength(1)
    expect(() => loaded(nested(20_000))).toThrow('expected at most 100 levels, got more')
  })

  test('names settings nested or with dots, and takes only the stages it needs', () => {
    const { axes, stages } = loaded(
      'space: { optimizer: { beta2: { min: 0.9, max: 0.99 } }, batch.perDevice: { min: 1, max: 8 }, steps: [10, 20], learningRate: 1e-4 }\nbudget: { trials: 3 }'.replace(
        'steps: [10, 20]',
        'steps: { values: [10, 20] }',
      ),
    )
    expect(axes.map(({ path, kind }) => [path, kind])).toEqual([
      ['optimizer.beta2', 'real'],
      ['batch.perDevice', 'integer'],
      ['steps', 'choice'],
      ['learningRate', 'choice'],
    ])
    expect(stages.map(({ stage }) => stage.name)).toEqual(['a', 'b'])
  })

  test.each([
    [
      'space: { learnigRate: { values: [1] } }\nbudget: { trials: 1 }',
      's.yaml:5:23 space.learnigRate: expected a setting, got learnigRate',
      'did you mean `learningRate`?',
    ],
    ['space: { learningRate: { vals: [1] } }\nbudget: { trials: 1 }', 'got the unknown key `vals`', undefined],
    ['space: { learningRate: { min: 1, max: 0.1 } }\nbudget: { trials: 1 }', 'expected min below max, got 1 and 0.1', undefined],
    ['space: { learningRate: { min: 0, max: 1, log: true } }\nbudget: { trials: 1 }', 'expected a min above 0 for log, got 0', undefined],
    ['space: { learningRate: { values: [-1] } }\nbudget: { trials: 1 }', 'got -1', undefined],
    ['space: { batch.perDevice: { min: 0.5, max: 2 } }\nbudget: { trials: 1 }', 'expected whole numbers', undefined],
    [
      'space: { optimizer.name: { min: 1, max: 2 } }\nbudget: { trials: 1 }',
      'expected values, got a range of a setting that is no number',
      undefined,
    ],
    ['space: { seed: { values: [1, 2] } }\nbudget: { trials: 1 }', 'got the seed', 'list seeds under `seeds`: they give intervals'],
    ['space: { learningRate: { values: [1e-4] } }', 'got a sweep without end', 'for example budget: { trials: 24 }'],
    ['space: { learningRate: { values: [1e-4] } }\nbudget: { trials: 0 }', 'budget.trials', undefined],
    [
      'space: { learningRate: { min: 1e-5, max: 1e-2 } }\nbudget: { trials: 9 }\nsampler: { name: cmaes }',
      'sampler: expected two ranges or more without a condition for cmaes, got 1',
      'use tpe or gp',
    ],
    [
      'space: { learningRate: { min: 0.001, max: 1, step: 1e-12 } }\nsampler: { name: grid }',
      's.yaml:5:8 space: expected at most 100000 points of a grid, got more',
      'use another sampler',
    ],
    [
      'space: { learningRate: [1e-4, 1e-3] }\nbudget: { trials: 2 }',
      'space.learningRate: expected an axis, got [0.0001,0.001]',
      '{ values: [0.0001,0.001] } for one of these',
    ],
    ['space: { learningRate: { min: 1e-5 } }\nbudget: { trials: 2 }', 'expected min and max, got min alone', undefined],
    [
      'space: { optimizer.name: { values: [adamw] }, optimizer.beta2: { min: 0.9, max: 0.99, when: { optimizer.name: sgd } } }\nbudget: { trials: 2 }',
      'space.optimizer.beta2: expected values of optimizer.name in when, got "sgd"',
      undefined,
    ],
    [
      'space: { learningRate: { min: 1e-5, max: 1, when: { ema.decay: 1 } } }\nbudget: { trials: 2 }',
      's.yaml:5:8 space: expected other axes in when of learningRate, got ema.decay, which is no axis',
      'name axes of this sweep',
    ],
    [
      "space: { learningRate: { min: 1e-5, max: 1e-2 } }\nbudget: { trials: 2 }\nconstraints: ['globalBatch = 64']",
      's.yaml:7:15 constraints.0: globalBatch = 64: expected numbers, settings and + - * / % ( ), got =',
      'for example batch.perDevice * batch.accumulate == 64',
    ],
    [
      "space: { learningRate: { min: 1e-5, max: 1e-2 } }\nbudget: { trials: 2 }\nconstraints: ['optimizer.name == 4']",
      'expected settings that are numbers, got optimizer.name, which is "adamw"',
      undefined,
    ],
    [
      'space: { learningRate: { min: 1e-5, max: 1e-2 } }\nbudget: { trials: 2 }\nseeds: [1, 1]',
      'seeds: expected each seed once, got [1,1]',
      undefined,
    ],
    [
      'space: { learningRate: { min: 1e-5, max: 1e-2 } }\nbudget: { trials: 2 }\nseeds: [1, 2, 3]',
      'budget.trials: expected at least one point, which takes a trial for each of 3 seeds, got 2 trials',
      undefined,
    ],
    [
      'space: { learningRate: { min: 1e-5, max: 1e-2 } }\nbudget: { trials: 2 }\npruner: { name: threshold }',
      'pruner: expected upper or lower for threshold, got neither',
      undefined,
    ],
    [
      'space: { learningRate: { min: 1e-5, max: 1e-2 } }\nbudget: { trials: 2 }\npruner: { name: asha, warmupSteps: 1000000 }',
      'pruner.warmupSteps: expected less than the',
      undefined,
    ],
    [
      'space: { learningRate: { min: 1e-5, max: 1e-2 } }\nbudget: { trials: 2 }\nobjective: { step: 1000000 }',
      'objective.step: expected a step of the stage, which has',
      undefined,
    ],
    ['space: {}\nbudget: { trials: 1 }', 'expected at least one axis, got none', undefined],
    [
      'space: { learningRate: { values: [1e-4] } }\nbudget: { trials: 1 }\nconstraints: ["batch.perDevise == 4"]',
      'constraints.0: expected settings, got batch.perDevise',
      'did you mean `batch.perDevice`?',
    ],
    [
      'space: { learningRate: { values: [1e-4] } }\nbudget: { trials: 1 }\nderived: { learningRate: "1 + 1" }',
      'expected a setting beside the axes, got an axis',
      undefined,
    ],
    [
      'space: { learningRate: { values: [1e-4] } }\nbudget: { trials: 1 }\nsamplr: {}',
      'the unknown key `samplr`',
      'did you mean `sampler`?',
    ],
    [
      'space: { learningRate: { min: 1e-4, max: 1e-3 } }\nsampler: { name: grid }',
      'expected values, step or points of learningRate for a grid',
      undefined,
    ],
    [
      'space: { learningRate: { values: [1e-4] } }\nbudget: { trials: 1 }\ndeterministic: true\nparallel: 2\npruner: { name: hyperband }',
      's.yaml:8:11 parallel: expected 1 for hyperband in a deterministic sweep, got 2',
      'or use asha',
    ],
  ])('is refused where it is wrong: %s', (text, message, hint) => {
    expect(() => loaded(text)).toThrow(
      expect.objectContaining({ message: expect.stringContaining(message), ...(hint === undefined ? {} : { hint }) }),
    )
  })

  test('refuses a stage that the recipe has not', () => {
    const files: Record<string, string> = {
      'r.yaml': recipe,
      's.yaml': 'formatVersion: 1\nname: s\nrecipe: r.yaml\nstage: othr\nspace: {}\n',
    }
    expect(() => loadSweep('s.yaml', { readFile: (path) => files[path] ?? '' })).toThrow(
      'expected a stage of r.yaml (a, other, b), got othr',
    )
  })

  test('keeps its hash when only the budget, the name or the slots change', () => {
    const hash = (text: string) => {
      const { sweep, axes, stages } = loaded(text)
      return sweepHash({ sweep, axes, stages: stages.map(({ stage }) => stage) })
    }
    const space = 'space: { learningRate: { values: [1e-4, 1e-3] } }'
    const first = hash(`${space}\nbudget: { trials: 3 }`)
    expect(hash(`${space}\nbudget: { trials: 9 }\nparallel: 2\nnotes: more`)).toBe(first)
    expect(hash('space: { learningRate: { values: [1e-4, 1e-2] } }\nbudget: { trials: 3 }')).not.toBe(first)
    expect(hash(`${space}\nbudget: { trials: 3 }\nset: ['b:steps=7']`)).not.toBe(first)
  })
})

test('the sweep that ships is whole, and only its stage and those before it are trained', () => {
  const { axes, stages } = loadSweep(join(import.meta.dirname, '../../configs/sweeps/quickstart.yaml'))
  expect(axes.map(({ path }) => path)).toEqual(['learningRate', 'trainable', 'ema.decay'])
  expect(stages.map(({ stage }) => stage.name)).toEqual(['vae', 't2v-1', 't2v-2'])
})
