import { spawnSync } from 'node:child_process'
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { EngineChoice } from '../../src/domain/engine-choice.ts'
import type { StageSide } from '../../src/domain/stage/origin.ts'
import { type StageInput, stageSchema } from '../../src/domain/stage/schema.ts'
import type { RunsWorld } from '../../src/runs/world.ts'
import { packageRoot, runsWorldOf } from '../../src/runs-world.ts'

const small = {
  shape: { frames: 5, height: 32, width: 32 },
  data: { fps: 8, workers: 2, heldOutClips: 2 },
  memory: { device: 'cpu', precision: 'fp32', threads: 1 },
  batch: { perDevice: 2, accumulate: 2 },
  heldOut: { draws: 2 },
  vae: {
    latentChannels: 4,
    baseChannels: 8,
    encoderFlowChannels: 8,
    decoderFlowChannels: 8,
    residualBlocks: 1,
    connectLayers: 1,
    attention: false,
  },
  checkpoint: { everySteps: 6, keepLast: 2 },
} satisfies Partial<StageInput>

const textToVideo = {
  ...small,
  kind: 'text-to-video',
  learningRate: 1e-3,
  vae: { ...small.vae, weights: 'stage:vae' },
  text: { encoder: 'bytes', maxLength: 16 },
  model: { layers: 4, heads: 2, headDim: 24, textChannels: 32, sparseN: 2, sparseBlocks: [2, 3] },
  objective: { zeroTerminalSnr: true },
} satisfies Partial<StageInput>

/** Three stages of every kind, small enough for seconds: the networks, the data and the loop are the real ones. */
export const tinyStages: Readonly<Record<'vae' | 'first' | 'second', StageInput>> = {
  vae: {
    ...small,
    name: 'vae',
    kind: 'vae',
    steps: 24,
    learningRate: 1e-3,
    objective: { name: 'reconstruction' },
    data: { ...small.data, cropSize: 32, crop: 'random' },
  },
  first: { ...textToVideo, name: 'first', steps: 24 },
  second: {
    ...textToVideo,
    name: 'second',
    steps: 24,
    init: { weights: 'stage:first', use: 'ema' },
    learningRate: 3e-4,
    trainable: ['all', '-blocks[0:2]'],
    phases: [{ at: 12, trainable: ['all'] }],
    objective: { ...textToVideo.objective, snrGamma: 5 },
  },
}

/** A stage as the use cases take it. */
export function sideOf(stage: StageInput): StageSide {
  return { label: stage.name, stage: stageSchema.parse(stage), origins: new Map(), findings: [] }
}

/** A folder for runs and one with twelve real clips; runs train where `place` says, on this machine else. */
export function tinyWorld(place: { env?: Readonly<Record<string, string>>; engine?: EngineChoice } = {}): {
  world: RunsWorld
  data: string
} {
  const folder = mkdtempSync(join(tmpdir(), 'stagewright-e2e-'))
  const env = { ...process.env, ...place.env }
  const world = runsWorldOf({ cwd: folder, env, runsFolder: join(folder, 'runs'), chosenEngine: place.engine })
  const { python, pythonPath } = world.python()
  const clips = join(folder, 'clips')
  const made = spawnSync(python, ['-m', 'osplan.data.synthetic', clips, '--clips', '12'], {
    encoding: 'utf8',
    env: { ...process.env, PYTHONPATH: pythonPath },
  })
  if (made.status !== 0) throw new Error(`${packageRoot}: no clips: ${made.stderr}`)
  return { world, data: clips }
}
