import { misfits } from '../stage/checks.ts'
import type { Stage, StagePath } from '../stage/schema.ts'
import type { Remark, Rule } from './rule.ts'

const checklist = 'fine-tuning checklist'
const upstreamCode = 'read from upstream’s trainer'

function remark(message: string, ...paths: [StagePath, ...StagePath[]]): Remark {
  return { message, paths }
}

/** Whether weights are a path rather than a stage or a run. */
function isFile(weights: string | null): boolean {
  return weights !== null && !weights.startsWith('stage:') && /[/.]/.test(weights)
}

const positionsCovered = (stage: Stage) => stage.kind !== 'vae' && stage.model.class !== 'LatteT2V' && stage.model.class !== 'Latte'

/** Rules that need one stage alone. */
export const singleStageRules: readonly Rule[] = [
  {
    name: 'fields-contradict',
    severity: 'error',
    hint: 'change one of them',
    source: 'checks across fields',
    check: ({ side: { stage, trainerVersion, origins } }) =>
      misfits(stage)
        // Upstream’s own classes of that time have other positions and losses than the model here.
        .filter(({ code }) => trainerVersion === undefined || !['OBJECTIVE_LPIPS', 'MODEL_ROPE'].includes(code))
        // Ranks that no launcher file gave are not known to contradict anything.
        .filter(({ code }) => code !== 'PARALLEL_SEQUENCE' || origins.get('parallel.processes')?.layer !== 'schema default')
        .map(({ path, text }) => remark(`${path}: ${text}`, path)),
  },
  {
    name: 'init-and-resume',
    severity: 'info',
    hint: 'keep one: once the output folder holds a checkpoint, changing the initial weights has no effect',
    source: upstreamCode,
    check: ({ side: { stage } }) =>
      stage.init.weights !== null && stage.init.continueFrom !== null
        ? [
            remark(
              'initial weights and a checkpoint to continue are both given; the output folder decides which one wins',
              'init.continueFrom',
              'init.weights',
            ),
          ]
        : [],
  },
  {
    name: 'latents-move',
    severity: 'warn',
    hint: 'vae.freezeEncoder: true keeps the latents; else encode caches again and fine-tune the diffusion stages on the new ones',
    source: checklist,
    check: ({ side: { stage, trainerVersion } }) =>
      trainerVersion === undefined && stage.kind === 'vae' && stage.init.weights !== null && !stage.vae.freezeEncoder
        ? [
            remark(
              `the encoder trains, so its latents change: caches and diffusion stages built on those of ${stage.init.weights} no longer fit`,
              'vae.freezeEncoder',
              'init.weights',
            ),
          ]
        : [],
  },
  {
    name: 'discriminator-cold',
    severity: 'warn',
    hint: 'objective.discriminatorWarmup: 1000 lets it learn alone first; a run of this trainer brings its own along',
    source: 'Open-Sora-Plan issue 453',
    check: ({ side: { stage, trainerVersion } }) =>
      trainerVersion === undefined &&
      stage.kind === 'vae' &&
      isFile(stage.init.weights) &&
      stage.objective.adversarialWeight > 0 &&
      stage.objective.discriminatorWarmup === 0
        ? [
            remark(
              'released weights hold no discriminator: a new one that knows nothing joins at once and pulls at what they know',
              'objective.discriminatorWarmup',
              'objective.adversarialWeight',
            ),
          ]
        : [],
  },
  {
    name: 'min-snr-at-zero-snr',
    severity: 'info',
    hint: 'set compat.minSnr: mended, or leave out one of the two',
    source: 'Hang et al. 2023 and Lin et al. 2024: min(SNR, γ) / (SNR + 1) is 0 where SNR is 0',
    check: ({ side: { stage } }) =>
      stage.objective.zeroTerminalSnr && stage.objective.snrGamma !== null && stage.compat.minSnr === 'upstream'
        ? [
            remark(
              'the last time step is pure noise and its min-SNR weight is 0, so it is never learnt',
              'objective.snrGamma',
              'objective.zeroTerminalSnr',
            ),
          ]
        : [],
  },
  {
    name: 'flow-with-sequence-parallel',
    severity: 'error',
    hint: 'use one rank per clip, or train it here, where ranks of a group share their times',
    source: upstreamCode,
    check: ({ side: { stage, trainerVersion } }) =>
      trainerVersion !== undefined &&
      stage.objective.name === 'rectified-flow' &&
      stage.parallel.sequence > 1 &&
      !stage.model.class.startsWith('Sparse')
        ? [remark('ranks that share a clip each draw their own time', 'parallel.sequence', 'objective.name')]
        : [],
  },
  {
    name: 'snr-weight-without-effect',
    severity: 'warn',
    hint: 'remove it: rectified flow has its own weighting',
    source: checklist,
    check: ({ side: { stage } }) =>
      stage.objective.name === 'rectified-flow' && (stage.objective.snrGamma !== null || stage.objective.zeroTerminalSnr)
        ? [
            remark(
              'rectified flow has no noise schedule: min-SNR and zero terminal SNR have no effect',
              stage.objective.snrGamma !== null ? 'objective.snrGamma' : 'objective.zeroTerminalSnr',
              'objective.name',
            ),
          ]
        : [],
  },
  {
    name: 'warmup-longer-than-stage',
    severity: 'warn',
    hint: 'shorten the warm-up or lengthen the stage',
    source: checklist,
    check: ({ side: { stage } }) =>
      stage.schedule.warmupSteps >= stage.steps
        ? [
            remark(
              `schedule.warmupSteps: expected fewer than the ${stage.steps} steps of the stage, got ${stage.schedule.warmupSteps}`,
              'schedule.warmupSteps',
              'steps',
            ),
          ]
        : [],
  },
  {
    name: 'warmup-without-effect',
    severity: 'info',
    hint: 'use constant-with-warmup, or drop the warm-up',
    source: 'diffusers: get_scheduler("constant") takes no warm-up',
    check: ({ side: { stage } }) =>
      stage.schedule.name === 'constant' && stage.schedule.warmupSteps > 0
        ? [remark(`a constant learning rate ignores ${stage.schedule.warmupSteps} warm-up steps`, 'schedule.warmupSteps', 'schedule.name')]
        : [],
  },
  {
    name: 'area-looks-like-a-side',
    severity: 'warn',
    hint: 'give height × width in pixels, for example 236544 for 352 × 672',
    source: upstreamCode,
    check: ({ side: { stage } }) =>
      (['shape.maxPixels', 'shape.minPixels'] as const).flatMap((path) => {
        const area = path === 'shape.maxPixels' ? stage.shape.maxPixels : stage.shape.minPixels
        return area !== null && area < stage.shape.multipleOf ** 2
          ? [remark(`${path}: expected an area, at least ${stage.shape.multipleOf ** 2} px, got ${area}, which looks like a side`, path)]
          : []
      }),
  },
  {
    name: 'positions-need-scale',
    severity: 'info',
    hint: 'absolute positions were trained for 480p; divide them by height ÷ 480 and width ÷ 640',
    source: 'upstream’s 720p scripts use 1.5 and 2.0',
    check: ({ side: { stage } }) => {
      const [, high = 1, wide = 1] = stage.model.interpolationScale
      return positionsCovered(stage) && stage.model.class === 'OpenSoraT2V' && (high !== 1 || wide !== 1)
        ? [
            remark(
              `positions are divided by ${high} (height) and ${wide} (width): they follow the resolution ${stage.shape.height} × ${stage.shape.width}`,
              'model.interpolationScale',
              'shape.height',
              'shape.width',
            ),
          ]
        : []
    },
  },
  {
    name: 'not-trainable',
    severity: 'info',
    hint: 'it can be compared and exported, not trained',
    source: 'models of the bundled trainer',
    check: ({ side: { stage } }) => [
      ...(['DiT', 'UDiT', 'Latte'].includes(stage.model.class) && stage.kind !== 'vae'
        ? [remark(`model.class: expected a model the bundled trainer has, got ${stage.model.class}`, 'model.class')]
        : []),
      ...(stage.vae.class === 'image' && stage.kind !== 'vae'
        ? [remark('vae.class: expected a video autoencoder, got an image autoencoder per frame', 'vae.class')]
        : []),
    ],
  },
]
