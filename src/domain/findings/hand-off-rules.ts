import { valueAt } from '../stage/fields.ts'
import type { StageSide } from '../stage/origin.ts'
import type { Stage, StagePath } from '../stage/schema.ts'
import type { Lineage, Remark, Rule } from './rule.ts'

const checklist = 'fine-tuning checklist'

/** Runs a check where there is a parent. */
function withParent(check: (stage: Stage, parent: Stage, sides: { side: StageSide; parent: StageSide }) => readonly Remark[]) {
  return ({ side, parent }: Lineage) => (parent ? check(side.stage, parent.stage, { side, parent }) : [])
}

function changed(stage: Stage, parent: Stage, path: StagePath): boolean {
  return JSON.stringify(valueAt(stage, path)) !== JSON.stringify(valueAt(parent, path))
}

function change(stage: Stage, parent: Stage, path: StagePath): string {
  const shown = (value: unknown) => (typeof value === 'string' ? value : JSON.stringify(value))
  return `${path}: ${shown(valueAt(parent, path))} → ${shown(valueAt(stage, path))}`
}

function each(paths: readonly StagePath[], applies: (stage: Stage, parent: Stage) => boolean = () => true) {
  return withParent((stage, parent) =>
    applies(stage, parent)
      ? paths
          .filter((path) => changed(stage, parent, path))
          .map((path) => ({ message: change(stage, parent, path), paths: [path] as const }))
      : [],
  )
}

const sameKind = (stage: Stage, parent: Stage) => stage.kind === parent.kind
const diffusion = (stage: Stage, parent: Stage) => stage.kind !== 'vae' && parent.kind !== 'vae'
const startsFromWeights = (stage: Stage) => stage.init.weights !== null || stage.init.continueFrom !== null
const objectivePaths = ['objective.name', 'objective.betas', 'objective.zeroTerminalSnr', 'objective.learnedVariance']
const vaeLossPaths = [
  'objective.discriminatorStart',
  'objective.perceptualWeight',
  'objective.adversarialWeight',
  'objective.klWeight',
  'objective.reconstruction',
  'objective.waveletWeight',
]
const architecturePaths = [
  'model.class',
  'model.layers',
  'model.heads',
  'model.headDim',
  'model.patch',
  'model.stageLayers',
  'model.textChannels',
  'vae.latentChannels',
  'model.rope',
]

/** Rules over the step from one stage to the next. */
export const handOffRules: readonly Rule[] = [
  {
    name: 'learning-rate-raised',
    severity: 'warn',
    hint: 'a stage that fine-tunes another takes smaller steps; lower it, or warm up',
    source: checklist,
    check: withParent((stage, parent) => {
      const ratio = stage.learningRate / parent.learningRate
      return sameKind(stage, parent) && ratio > 1 + 1e-9
        ? [
            {
              message: `learningRate: ${parent.learningRate} → ${stage.learningRate}, ${Number(ratio.toPrecision(3))} times the parent’s`,
              paths: ['learningRate'],
            },
          ]
        : []
    }),
  },
  {
    name: 'learning-rate-kept',
    severity: 'info',
    hint: 'a stage that fine-tunes another usually takes smaller steps',
    source: checklist,
    check: withParent((stage, parent) =>
      sameKind(stage, parent) && stage.learningRate === parent.learningRate
        ? [{ message: `learningRate: ${stage.learningRate}, not reduced against the parent`, paths: ['learningRate'] }]
        : [],
    ),
  },
  {
    name: 'objective-changed',
    severity: 'warn',
    hint: 'the parent’s weights predict something else; expect to train longer',
    source: checklist,
    check: each(objectivePaths, diffusion),
  },
  {
    name: 'vae-loss-changed',
    severity: 'warn',
    hint: 'the balance of the terms of the loss moves with it',
    source: 'WF-VAE, section 4: each stage names its weights',
    check: each(vaeLossPaths, (stage, parent) => stage.kind === 'vae' && parent.kind === 'vae'),
  },
  {
    name: 'vae-frames-change-loss',
    severity: 'warn',
    hint: 'KL and wavelet terms are sums over frames, the reconstruction is a mean: weigh them again',
    source: 'read from upstream’s VAE trainer',
    check: each(['shape.frames'], (stage, parent) => stage.kind === 'vae' && parent.kind === 'vae'),
  },
  {
    name: 'architecture-changed',
    severity: 'warn',
    hint: 'tensors of another shape cannot be taken over and start from random numbers; say so with init.accept',
    source: checklist,
    check: each(architecturePaths, (stage, parent) => diffusion(stage, parent) && startsFromWeights(stage)),
  },
  {
    name: 'autoencoder-changed',
    severity: 'warn',
    hint: 'the parent learnt the latents of another autoencoder; keep it, or show that both share their latents',
    source: checklist,
    check: each(
      ['vae.name', 'vae.class', 'vae.weights'],
      (stage, parent) => diffusion(stage, parent) && (stage.vae.class !== parent.vae.class || stage.vae.name !== parent.vae.name),
    ),
  },
  {
    name: 'text-encoder-changed',
    severity: 'warn',
    hint: 'the parent was trained with another encoder’s states, even where the width is the same',
    source: checklist,
    check: withParent((stage, parent) =>
      diffusion(stage, parent) && baseName(stage.text.encoder) !== baseName(parent.text.encoder)
        ? [{ message: change(stage, parent, 'text.encoder'), paths: ['text.encoder'] }]
        : [],
    ),
  },
  {
    name: 'init-missing',
    severity: 'warn',
    hint: 'give init.weights: the parent’s folder, or stage:NAME',
    source: checklist,
    check: withParent((stage) =>
      startsFromWeights(stage) && stage.init.weights !== null
        ? []
        : stage.init.weights === null && stage.kind !== 'vae'
          ? [{ message: 'init.weights: expected the parent’s weights, got none', paths: ['init.weights'] }]
          : [],
    ),
  },
  {
    name: 'init-not-parent',
    severity: 'error',
    hint: 'point init.weights at what the parent writes',
    source: checklist,
    check: withParent((stage, parent) => wrongInit(stage, parent)),
  },
  {
    name: 'default-changed',
    severity: 'warn',
    hint: 'the script is silent and the trainer’s default moved: write the value that is meant',
    source: 'defaults of both trainers',
    check: withParent((stage, parent, sides) => defaultChanges(stage, parent, sides)),
  },
  {
    name: 'numerics-changed',
    severity: 'warn',
    hint: 'the losses of both stages cannot be compared digit by digit',
    source: checklist,
    check: each([
      'memory.precision',
      'memory.vaePrecision',
      'upstream.fp32-residual-connection',
      'upstream.attention-softmax-in-fp32',
      'upstream.accumulate-allreduce-grads-in-fp32',
    ]),
  },
  {
    name: 'resolution-without-scale',
    severity: 'warn',
    hint: 'scale model.interpolationScale with the resolution, or positions mean another place',
    source: 'upstream’s 256p, 480p and 720p scripts',
    check: withParent((stage, parent) =>
      diffusion(stage, parent) &&
      stage.model.class === 'OpenSoraT2V' &&
      (changed(stage, parent, 'shape.height') || changed(stage, parent, 'shape.width')) &&
      !changed(stage, parent, 'model.interpolationScale')
        ? [
            {
              message: `resolution ${parent.shape.height} × ${parent.shape.width} → ${stage.shape.height} × ${stage.shape.width}, positions are scaled as before`,
              paths: ['model.interpolationScale', 'shape.height', 'shape.width'],
            },
          ]
        : [],
    ),
  },
  {
    name: 'data-changed',
    severity: 'info',
    hint: 'intended in most chains; worth a line in the notes',
    source: checklist,
    check: withParent((stage, parent) =>
      diffusion(stage, parent) && changed(stage, parent, 'data.source')
        ? [
            {
              ...(nothingElseMoved(stage, parent) ? { severity: 'warn' as const } : {}),
              message: `${change(stage, parent, 'data.source')}${nothingElseMoved(stage, parent) ? ', at the same resolution and learning rate' : ''}`,
              paths: ['data.source'] as const,
            },
          ]
        : [],
    ),
  },
]

/** Other data is expected where the resolution grows or the learning rate falls; where neither moves, somebody should have said why. */
function nothingElseMoved(stage: Stage, parent: Stage): boolean {
  return !['shape.height', 'shape.width', 'shape.maxPixels', 'learningRate'].some((path) => changed(stage, parent, path))
}

function baseName(path: string): string {
  return path.replace(/\/+$/, '').replace(/^.*\//, '')
}

function wrongInit(stage: Stage, parent: Stage): Remark[] {
  const { weights } = stage.init
  const { output } = parent
  if (weights === null || output === null || /^stage:/.test(weights)) return []
  if (weights === parent.init.weights)
    return [
      {
        severity: 'warn',
        message: `init.weights: expected what the parent writes (${output}), got the parent’s own start, ${weights}`,
        paths: ['init.weights', 'output'],
      },
    ]
  const folder = baseName(output)
  const isPlain = folder !== '' && !/\$|^debug$/.test(output)
  if (!isPlain || weights.includes(folder) || !/^[^/]+\/|\/checkpoint-\d+/.test(weights)) return []
  return [{ message: `init.weights: expected the parent’s folder, ${output}, got ${weights}`, paths: ['init.weights', 'output'] }]
}

const silentPaths = [
  'ema.decay',
  'objective.noiseOffset',
  'optimizer.epsilon',
  'optimizer.beta2',
  'optimizer.weightDecay',
  'objective.name',
  'schedule.warmupSteps',
  'clip.norm',
  'clip.mode',
  'shape.maxPixels',
  'text.captionDropout',
]

function defaultChanges(stage: Stage, parent: Stage, { side, parent: before }: { side: StageSide; parent: StageSide }): Remark[] {
  if (side.trainerVersion === undefined || before.trainerVersion === undefined || side.trainerVersion === before.trainerVersion) return []
  return silentPaths
    .filter((path) => side.origins.get(path)?.layer === 'trainer default' && changed(stage, parent, path))
    .map((path) => ({ message: `${change(stage, parent, path)}, by the default of ${side.trainerVersion}`, paths: [path] }))
}
