import type { Stage, StagePath } from './stage/schema.ts'

/*
 * A starting recipe for fine-tuning on few clips. Every line has a reason and a source; rules of thumb are called that.
 */

/** What a person has. */
export interface Means {
  readonly clips: number
  readonly gpus: number
  /** Memory of one GPU in bytes. */
  readonly gpuBytes: number
}

/** A setting of the new stage, why it has that value, and where the reason comes from. */
export interface SuggestedSetting {
  readonly path: StagePath
  readonly value: unknown
  readonly reason: string
  readonly source: string
}

const rule = 'rule of thumb; measure with `stagewright sweep`'
const upstream = 'upstream’s own chain of stages (configs/upstream)'

/** How often each clip is seen in all: few clips are learnt by heart long before many are learnt at all. */
function epochsFor(clips: number): number {
  if (clips < 100) return 60
  if (clips < 1000) return 30
  return clips < 10_000 ? 10 : 3
}

/** Clips of one step: a tenth of the data at most, so that an epoch has steps to average over. */
function globalBatchFor({ clips, gpus }: Means): number {
  const wanted = Math.max(1, Math.min(32, Math.floor(clips / 10)))
  return Math.max(gpus, Math.floor(wanted / gpus) * gpus)
}

/** Share of the blocks, from the bottom, that stay as the parent learnt them at first. */
function frozenShareFor(clips: number): number {
  if (clips < 100) return 0.75
  return clips < 2000 ? 0.5 : 0
}

/** Settings that do not depend on whether everything fits into memory. */
export function suggestedSettings(parent: Stage, means: Means): SuggestedSetting[] {
  const { clips, gpus } = means
  const batch = globalBatchFor(means)
  const heldOutClips = Math.max(4, Math.min(64, Math.round(clips / 10)))
  const epochs = epochsFor(clips)
  const steps = Math.max(100, Math.round((epochs * (clips - heldOutClips)) / batch / 50) * 50)
  const every = Math.max(10, Math.round(steps / 20))
  const rate = parent.learningRate / 2
  const settings: SuggestedSetting[] = [
    {
      path: 'learningRate',
      value: rate,
      reason: `half of the parent’s ${parent.learningRate}: later stages of a chain halve or quarter it`,
      source: upstream,
    },
    { path: 'schedule.name', value: 'constant-with-warmup', reason: 'stops anywhere without a half-finished decay', source: rule },
    {
      path: 'schedule.warmupSteps',
      value: Math.max(10, Math.round(steps / 20)),
      reason: 'moments of a new optimiser are unreliable in its first steps',
      source: 'Adam (Kingma and Ba 2015), section 3',
    },
    { path: 'steps', value: steps, reason: `about ${epochs} passes over ${clips - heldOutClips} clips at ${batch} a step`, source: rule },
    {
      path: 'batch.accumulate',
      value: Math.max(1, batch / gpus),
      reason: `${batch} clips a step on ${gpus} ${gpus === 1 ? 'GPU' : 'GPUs'}, one at a time`,
      source: rule,
    },
    { path: 'batch.perDevice', value: 1, reason: 'the least memory; raise it where the plan leaves room', source: rule },
    { path: 'parallel.nodes', value: 1, reason: 'one machine', source: 'what you have' },
    { path: 'parallel.processes', value: gpus, reason: 'one rank a GPU', source: 'what you have' },
    {
      path: 'ema.decay',
      value: emaDecay(steps),
      reason: `looks back over about a tenth of ${steps} steps; the usual 0.9999 would still be mostly the parent`,
      source: rule,
    },
    {
      path: 'data.heldOutClips',
      value: heldOutClips,
      reason: 'a tenth, never trained on: without it nothing tells learning from learning by heart',
      source: rule,
    },
    { path: 'heldOut.everySteps', value: every, reason: 'twenty looks at the held-out loss', source: rule },
    {
      path: 'heldOut.patience',
      value: 5,
      reason: 'ends when five looks in a row were no better',
      source: 'early stopping (Prechelt 1998)',
    },
    { path: 'checkpoint.everySteps', value: every, reason: 'a checkpoint for each look, so that the best can be handed on', source: rule },
    {
      path: 'incidents.policy',
      value: 'rollback',
      reason: 'a poisoned batch costs a few steps, not the run',
      source: 'PaLM (Chowdhery et al. 2022), section 5.1',
    },
  ]
  return [...settings, ...frozen(parent, clips)]
}

function emaDecay(steps: number): number {
  return Number((1 - Math.min(0.1, 10 / steps)).toPrecision(4))
}

/** Freezing and thawing, where there are few clips and blocks to freeze. */
function frozen(parent: Stage, clips: number): SuggestedSetting[] {
  const count = Math.floor(parent.model.layers * frozenShareFor(clips))
  if (parent.kind === 'vae') return []
  if (count === 0) return everything(parent)
  return [
    {
      path: 'trainable',
      value: ['all', `-blocks[0:${count}]`],
      reason: `the lower ${count} of ${parent.model.layers} blocks keep what the parent learnt of many clips; whole blocks, because freezing the spatial part alone made videos static`,
      source: 'Howard and Ruder 2018 (gradual unfreezing); hpcaitech/Open-Sora#279',
    },
    {
      path: 'phases',
      value: [{ at: 'plateau', trainable: ['all'], rewarmSteps: 50 }],
      reason: 'all blocks train once the upper ones have nothing left to gain',
      source: 'Howard and Ruder 2018, section 3.3',
    },
    {
      path: 'incidents.watch.plateau',
      value: 3,
      reason: 'three looks of the twenty with a gain of less than half a percent are enough to thaw them',
      source: rule,
    },
  ]
}

/** Says that all of it trains, where the parent froze some and the new stage would take that over. */
function everything({ trainable, phases }: Stage): SuggestedSetting[] {
  if (phases.length === 0 && trainable.length === 1 && trainable[0] === 'all') return []
  const reason = 'all of it trains from the first step; what the parent froze was chosen for its own clips'
  return [
    { path: 'trainable', value: ['all'], reason, source: rule },
    { path: 'phases', value: [], reason, source: rule },
  ]
}

/** Ways to need less memory, the cheapest first; each comes on top of those before it. */
export function memorySteps(parent: Stage, means: Means): SuggestedSetting[][] {
  const plan = 'the plan’s memory'
  const upper = Math.floor((parent.model.layers * 3) / 4)
  const shared: SuggestedSetting[][] =
    means.gpus > 1
      ? [
          [
            {
              path: 'parallel.strategy',
              value: 'fsdp2',
              reason: 'weights, gradients and optimiser state are shared among the GPUs',
              source: 'ZeRO (Rajbhandari et al. 2020)',
            },
          ],
        ]
      : []
  const fewer: SuggestedSetting[][] = [
    [
      {
        path: 'trainable',
        value: ['all', `-blocks[0:${upper}]`],
        reason: 'frozen blocks need neither gradients nor optimiser state',
        source: plan,
      },
      { path: 'phases', value: [], reason: 'thawing them would need the memory after all', source: plan },
    ],
  ]
  const adapters: SuggestedSetting[][] = [
    [
      {
        path: 'lora.rank',
        value: 16,
        reason: 'adapters beside frozen weights: gradients and optimiser state of under a hundredth of the parameters',
        source: 'Hu et al. 2021',
      },
      { path: 'lora.alpha', value: 16, reason: 'equal to the rank, as upstream’s adapter script has it', source: upstream },
      { path: 'trainable', value: ['lora'], reason: 'the adapters alone', source: 'docs/adapters.md' },
      {
        path: 'learningRate',
        value: 1e-4,
        reason: 'adapters start at zero and take a larger rate than the weights would',
        source: 'Hu et al. 2021, appendix D',
      },
    ],
  ]
  return [
    [{ path: 'memory.precision', value: 'bf16', reason: 'half the activations, at full range', source: 'Kalamkar et al. 2019' }],
    [
      {
        path: 'memory.checkpointing',
        value: 'all',
        reason: 'activations computed again: a third more time for a fraction of their memory',
        source: 'Chen et al. 2016',
      },
    ],
    ...shared,
    ...(parent.kind === 'vae' || upper === 0 ? [] : fewer),
    ...(parent.kind === 'vae' ? [] : adapters),
    [{ path: 'ema.enabled', value: false, reason: 'one copy of the weights less; the raw weights are handed on', source: plan }],
  ]
}

/** What nobody can know beforehand. */
export const unknowns: readonly string[] = [
  'how much your clips differ from what the parent was trained on: near ones want fewer steps, far ones more',
  'whether the captions are written as the parent’s were; long, plain descriptions were',
  'the time a step takes: `stagewright plan --probe` measures it on your machine',
]
