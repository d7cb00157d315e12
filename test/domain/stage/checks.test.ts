import { describe, expect, test } from 'vitest'
import { latentShape, tokenShape } from '../../../src/domain/shapes.ts'
import { misfits, startStep } from '../../../src/domain/stage/checks.ts'
import { type StageInput, stageSchema } from '../../../src/domain/stage/schema.ts'

function found(input: Partial<StageInput>): string[] {
  return misfits(stageSchema.parse({ name: 'a', ...input })).map(
    ({ code, path, text, hint }) => `${code} ${path}: ${text}${hint ? ` (${hint})` : ''}`,
  )
}

const vae = { kind: 'vae', objective: { name: 'reconstruction' } } as const

describe('fields that contradict each other', () => {
  test.each<[string, Partial<StageInput>]>([
    ['the defaults', {}],
    ['a VAE', { ...vae, data: { cropSize: 48 }, shape: { frames: 9, height: 96, width: 96 } }],
    ['frames as they come, for an image autoencoder', { vae: { class: 'image', stride: [4, 8] }, shape: { frames: 16 } }],
    ['a head of any size without rotary positions', { model: { rope: false, headDim: 64 } }],
    ['the unequal rotary positions of v1.5', { model: { class: 'SparseUMMDiT', headDim: 128 } }],
    [
      'phases in order',
      {
        steps: 100,
        heldOut: { everySteps: 10 },
        data: { heldOutClips: 2 },
        phases: [
          { at: 10, trainable: ['all'] },
          { at: 'plateau', trainable: ['all'] },
          { at: '50%', trainable: ['all'] },
        ],
      },
    ],
    ['ranks that share clips over machines', { parallel: { nodes: 2, processes: 4, sequence: 8 } }],
    ['buckets of other sizes', { shape: { fixed: false, height: 351, multipleOf: 32 } }],
  ])('%s fit', (_, input) => {
    expect(found(input)).toEqual([])
  })

  test.each<[Partial<StageInput>, string]>([
    [{ shape: { frames: 64 } }, 'SHAPE_FRAMES shape.frames: expected 1 + 4k frames, got 64 (use 61 or 65)'],
    [{ shape: { frames: 2 } }, 'SHAPE_FRAMES shape.frames: expected 1 + 4k frames, got 2 (use 1 or 5)'],
    [{ vae: { stride: [8, 8] }, shape: { frames: 29 } }, 'SHAPE_FRAMES shape.frames: expected 1 + 8k frames, got 29 (use 25 or 33)'],
    [{ shape: { height: 360 } }, 'SHAPE_SIZE shape.height: expected a multiple of 16 (VAE stride × patch), got 360 (use 352 or 368)'],
    [{ shape: { width: 8 } }, 'SHAPE_SIZE shape.width: expected a multiple of 16 (VAE stride × patch), got 8 (use 16)'],
    [
      { model: { patch: [1, 4, 2] }, shape: { height: 48 } },
      'SHAPE_SIZE shape.height: expected a multiple of 32 (VAE stride × patch), got 48 (use 32 or 64)',
    ],
    [
      { shape: { fixed: false, multipleOf: 8 } },
      'SHAPE_SIZE shape.multipleOf: expected a multiple of 16 (VAE stride × patch), got 8 (use 16)',
    ],
    [
      { ...vae, data: { cropSize: 50 } },
      'SHAPE_SIZE data.cropSize: expected a multiple of 8 (the stride of the VAE), got 50 (use 48 or 56)',
    ],
    [
      { ...vae, data: { cropSize: 512 } },
      'SHAPE_CROP data.cropSize: expected at most the clip’s 352 px, got 512 (use 352 or larger clips)',
    ],
    [{ shape: { minPixels: 9, maxPixels: 8 } }, 'SHAPE_LIMITS shape.minPixels: expected at most maxPixels (8), got 9'],
    [
      { model: { headDim: 64 } },
      'MODEL_ROPE model.headDim: expected a multiple of 6 (rotary positions over time, height and width), got 64 (use 60 or 66)',
    ],
    [{ model: { layers: 4, sparseBlocks: [3, 4] } }, 'MODEL_BLOCKS model.sparseBlocks: expected blocks from 0 to 3, got 4'],
    [
      { model: { stageLayers: [1, 2], stageSparseN: [1] } },
      'MODEL_STAGES model.stageSparseN: expected 2 numbers, as many as model.stageLayers, got 1',
    ],
    [
      { kind: 'vae' },
      'OBJECTIVE_KIND objective.name: expected `reconstruction` for a stage of kind vae, got v-prediction (write objective: { name: reconstruction })',
    ],
    [{ kind: 'lora' }, 'LORA_RANK lora.rank: expected a rank for a stage of kind lora, got nothing (write lora: { rank: 16 })'],
    [
      { parallel: { processes: 6, sequence: 4 } },
      'PARALLEL_SEQUENCE parallel.sequence: expected a divisor of the 6 ranks (nodes × processes), got 4',
    ],
    [
      { kind: 'inpaint', objective: { minClear: 0.8, maxClear: 0.2 } },
      'OBJECTIVE_CLEAR objective.minClear: expected at most maxClear (0.2), got 0.8',
    ],
  ])('%j is refused', (input, message) => {
    expect(found(input)).toEqual([message])
  })

  test('LPIPS needs its weights', () => {
    const [message] = found({ ...vae, objective: { name: 'reconstruction', perceptualWeight: 1 } })
    expect(message).toContain('OBJECTIVE_LPIPS objective.perceptualWeight')
    expect(found({ ...vae, objective: { name: 'reconstruction', perceptualWeight: 1, lpipsWeights: 'lpips.safetensors' } })).toEqual([])
  })

  test('a phase that waits for a plateau needs a held-out loss', () => {
    const phases = [{ at: 'plateau', trainable: ['all'] }]
    const measured = { heldOut: { everySteps: 10 }, data: { heldOutClips: 2 } }
    expect(found({ phases, ...measured })).toEqual([])
    for (const [settings, got] of [
      [{ heldOut: { everySteps: null } }, 'heldOut.everySteps: null'],
      [{ data: { heldOutClips: 0 } }, 'data.heldOutClips: 0'],
    ] as const) {
      expect(found({ phases, ...measured, ...settings })).toEqual([
        `PHASE_PLATEAU phases[0].at: expected a held-out loss that is measured while it trains, got ${got} (set heldOut.everySteps and data.heldOutClips, or write a step)`,
      ])
    }
  })

  test('phases must come in order and before the end', () => {
    const all = { trainable: ['all'] }
    expect(
      found({
        steps: 100,
        phases: [
          { at: '50%', ...all },
          { at: 50, ...all },
        ],
      }),
    ).toEqual(['PHASE_ORDER phases[1].at: expected a step after the phase before it (50), got 50 (list phases in order)'])
    expect(found({ steps: 100, phases: [{ at: 100, ...all }] })).toEqual([
      'PHASE_LATE phases[0].at: expected a step before the end (100), got 100',
    ])
    expect(startStep('plateau', 100)).toBeUndefined()
  })
})

describe('shapes', () => {
  test('a causal VAE keeps the first frame and groups the rest', () => {
    const latent = latentShape({ unit: 'pixel', frames: 93, height: 480, width: 640 }, { time: 4, space: 8 })
    expect(latent).toEqual({ unit: 'latent', frames: 24, height: 60, width: 80 })
    expect(tokenShape(latent, [1, 2, 2])).toEqual({ unit: 'token', frames: 24, height: 30, width: 40 })
  })

  test('sides that fill no whole cells are refused', () => {
    expect(() => latentShape({ unit: 'pixel', frames: 1, height: 12, width: 16 }, { time: 4, space: 8 })).toThrow(
      'expected a height divisible by 8, got 12',
    )
  })
})
