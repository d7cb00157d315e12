import { UserError } from '../errors.ts'
import { latentShape, multiples, vaeStride } from '../shapes.ts'
import type { Stage, StagePath } from './schema.ts'

/** Fields of a stage that do not fit together. */
export interface Misfit {
  readonly code: string
  /** The field to correct. */
  readonly path: StagePath
  /** *expected this, got that*. */
  readonly text: string
  readonly hint?: string
}

/** Everything in a complete stage that cannot be trained because its fields contradict each other. */
export function misfits(stage: Stage): Misfit[] {
  return checks.flatMap((check) => check(stage))
}

type Check = (stage: Stage) => Misfit[]

const frames: Check = (stage) => {
  const { frames: count } = stage.shape
  try {
    latentShape({ unit: 'pixel', frames: count, height: 0, width: 0 }, vaeStride(stage))
    return []
  } catch (error) {
    if (!(error instanceof UserError)) throw error
    return [{ code: error.code, path: 'shape.frames', text: error.message, ...(error.hint ? { hint: error.hint } : {}) }]
  }
}

/** Pixels of one token along height and width. */
function pixelsPerToken(stage: Stage): { height: number; width: number } {
  const { space } = vaeStride(stage)
  const [, high = 1, wide = 1] = stage.kind === 'vae' ? [1, 1, 1] : stage.model.patch
  return { height: space * high, width: space * wide }
}

const sizes: Check = (stage) => {
  const token = pixelsPerToken(stage)
  const what = stage.kind === 'vae' ? 'the stride of the VAE' : 'VAE stride × patch'
  if (!stage.shape.fixed) {
    const side = Math.max(token.height, token.width)
    return stage.shape.multipleOf % side === 0 ? [] : [sizeMisfit('shape.multipleOf', stage.shape.multipleOf, side, what)]
  }
  return (['height', 'width'] as const)
    .filter((side) => stage.shape[side] % token[side] !== 0)
    .map((side) => sizeMisfit(`shape.${side}`, stage.shape[side], token[side], what))
}

function sizeMisfit(path: StagePath, length: number, of: number, what: string): Misfit {
  return { code: 'SHAPE_SIZE', path, text: `expected a multiple of ${of} (${what}), got ${length}`, hint: `use ${multiples(length, of)}` }
}

const crops: Check = ({ kind, data, shape, vae }) => {
  if (kind !== 'vae' || data.cropSize === null) return []
  const [, space = 1] = vae.stride
  if (data.cropSize % space !== 0) return [sizeMisfit('data.cropSize', data.cropSize, space, 'the stride of the VAE')]
  const side = Math.min(shape.height, shape.width)
  if (data.cropSize <= side) return []
  return [
    {
      code: 'SHAPE_CROP',
      path: 'data.cropSize',
      text: `expected at most the clip’s ${side} px, got ${data.cropSize}`,
      hint: `use ${side} or larger clips`,
    },
  ]
}

const pixelLimits: Check = ({ shape }) => {
  if (shape.minPixels === null || shape.maxPixels === null || shape.minPixels <= shape.maxPixels) return []
  return [
    { code: 'SHAPE_LIMITS', path: 'shape.minPixels', text: `expected at most maxPixels (${shape.maxPixels}), got ${shape.minPixels}` },
  ]
}

/** Classes whose rotary positions split a head into three equal parts of cosines and sines. */
const threePartRope: ReadonlySet<string> = new Set(['OpenSoraT2V_v1_3', 'OpenSoraInpaint_v1_3', 'OpenSoraT2V', 'OpenSoraInpaint'])

const rope: Check = ({ kind, model }) => {
  if (kind === 'vae' || !model.rope || !threePartRope.has(model.class) || model.headDim % 6 === 0) return []
  const text = `expected a multiple of 6 (rotary positions over time, height and width), got ${model.headDim}`
  return [{ code: 'MODEL_ROPE', path: 'model.headDim', text, hint: `use ${multiples(model.headDim, 6)}` }]
}

const sparseBlocks: Check = ({ kind, model }) => {
  const beyond = model.sparseBlocks?.find((block) => block >= model.layers)
  if (kind === 'vae' || beyond === undefined) return []
  return [{ code: 'MODEL_BLOCKS', path: 'model.sparseBlocks', text: `expected blocks from 0 to ${model.layers - 1}, got ${beyond}` }]
}

const uShape: Check = ({ kind, model: { stageLayers, stageSparseN } }) => {
  if (kind === 'vae' || !stageLayers || !stageSparseN || stageLayers.length === stageSparseN.length) return []
  const text = `expected ${stageLayers.length} numbers, as many as model.stageLayers, got ${stageSparseN.length}`
  return [{ code: 'MODEL_STAGES', path: 'model.stageSparseN', text }]
}

const objective: Check = ({ kind, objective: { name } }) => {
  if ((kind === 'vae') === (name === 'reconstruction')) return []
  const expected =
    kind === 'vae' ? '`reconstruction` for a stage of kind vae' : `another objective than \`reconstruction\` for a stage of kind ${kind}`
  const hint = kind === 'vae' ? 'write objective: { name: reconstruction }' : 'use v-prediction, epsilon or rectified-flow'
  return [{ code: 'OBJECTIVE_KIND', path: 'objective.name', text: `expected ${expected}, got ${name}`, hint }]
}

const lpips: Check = ({ kind, objective: { perceptualWeight, lpipsWeights } }) => {
  if (kind !== 'vae' || perceptualWeight === 0 || lpipsWeights !== null) return []
  const text = `expected objective.lpipsWeights beside it, got none`
  return [
    {
      code: 'OBJECTIVE_LPIPS',
      path: 'objective.perceptualWeight',
      text,
      hint: 'give the local file with the LPIPS weights, or set perceptualWeight: 0',
    },
  ]
}

const masks: Check = ({ kind, objective: { minClear, maxClear, maskRatios } }) => {
  if (kind !== 'inpaint') return []
  const drawn = Object.values(maskRatios).some((ratio) => ratio > 0)
  return [
    ...(minClear <= maxClear
      ? []
      : [{ code: 'OBJECTIVE_CLEAR', path: 'objective.minClear', text: `expected at most maxClear (${maxClear}), got ${minClear}` }]),
    ...(drawn ? [] : [{ code: 'OBJECTIVE_MASKS', path: 'objective.maskRatios', text: 'expected a ratio above 0, got none' }]),
  ]
}

const adapters: Check = ({ kind, lora }) =>
  kind === 'lora' && lora.rank === null
    ? [
        {
          code: 'LORA_RANK',
          path: 'lora.rank',
          text: 'expected a rank for a stage of kind lora, got nothing',
          hint: 'write lora: { rank: 16 }',
        },
      ]
    : []

const sequenceParallel: Check = ({ parallel: { nodes, processes, sequence } }) => {
  const ranks = nodes * processes
  if (ranks % sequence === 0) return []
  return [
    {
      code: 'PARALLEL_SEQUENCE',
      path: 'parallel.sequence',
      text: `expected a divisor of the ${ranks} ranks (nodes × processes), got ${sequence}`,
    },
  ]
}

const phaseOrder: Check = ({ phases, steps }) => {
  const starts = phases.map(({ at }) => startStep(at, steps))
  const wrong = starts.flatMap((start, place): Misfit[] => {
    if (start === undefined) return []
    const path = `phases[${place}].at`
    if (start >= steps) return [{ code: 'PHASE_LATE', path, text: `expected a step before the end (${steps}), got ${phases[place]?.at}` }]
    const before = starts.slice(0, place).findLast((step) => step !== undefined)
    if (before === undefined || start > before) return []
    return [
      {
        code: 'PHASE_ORDER',
        path,
        text: `expected a step after the phase before it (${before}), got ${start}`,
        hint: 'list phases in order',
      },
    ]
  })
  return wrong
}

/** Nobody would ever see the plateau that a phase waits for. */
const plateauPhase: Check = ({ phases, heldOut, data }) => {
  const place = phases.findIndex(({ at }) => at === 'plateau')
  const got = heldOut.everySteps === null ? 'heldOut.everySteps: null' : data.heldOutClips === 0 ? 'data.heldOutClips: 0' : undefined
  if (place < 0 || got === undefined) return []
  const text = `expected a held-out loss that is measured while it trains, got ${got}`
  return [
    { code: 'PHASE_PLATEAU', path: `phases[${place}].at`, text, hint: 'set heldOut.everySteps and data.heldOutClips, or write a step' },
  ]
}

/** Step at which a phase starts; undefined where only training shows it. */
export function startStep(at: number | string, steps: number): number | undefined {
  if (typeof at === 'number') return at
  return at.endsWith('%') ? Math.floor((Number.parseFloat(at) / 100) * steps) : undefined
}

const checks: readonly Check[] = [
  frames,
  sizes,
  crops,
  pixelLimits,
  rope,
  sparseBlocks,
  uShape,
  objective,
  lpips,
  masks,
  adapters,
  sequenceParallel,
  phaseOrder,
  plateauPhase,
]
