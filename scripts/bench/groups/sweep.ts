import { spawnSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { findPython } from '../../../src/bridge/environment.ts'
import { sweepFrom } from '../../../src/config/sweep-file.ts'
import type { StageInput } from '../../../src/domain/stage/schema.ts'
import { sweepFor } from '../../../src/runs/sweep/begin.ts'
import { driveSweep, suggesterOf } from '../../../src/runs/sweep/driver.ts'
import { SweepSession } from '../../../src/runs/sweep/session.ts'
import type { RunsWorld } from '../../../src/runs/world.ts'
import { runsWorldOf } from '../../../src/runs-world.ts'
import { writeAtomically } from '../../../src/store/files.ts'
import { trainerJournal } from '../../../src/store/journal.ts'
import { filesOf, findRun } from '../../../src/store/runs.ts'
import { readSweepState, type Sweep, sweepJournal } from '../../../src/store/sweeps.ts'
import type { Measured } from '../figure.ts'
import type { Group } from '../group.ts'
import { trainedBy } from '../two-nodes.ts'

const trials = 12
const rounds = 5
const trialsARound = 100
const nodeRounds = 3
const nodeSteps = 60
/** States a trial goes through to its end: queued, starting, running, done. */
const transitionsATrial = 4

const stage: StageInput = {
  name: 'small',
  kind: 'text-to-video',
  steps: 5,
  shape: { frames: 5, height: 32, width: 32 },
  data: { fps: 8, workers: 1, heldOutClips: 2 },
  memory: { device: 'cpu', precision: 'fp32', threads: 1 },
  batch: { perDevice: 1 },
  heldOut: { draws: 1 },
  vae: {
    weights: 'random',
    latentChannels: 4,
    baseChannels: 8,
    encoderFlowChannels: 8,
    decoderFlowChannels: 8,
    residualBlocks: 1,
    connectLayers: 1,
    attention: false,
  },
  text: { encoder: 'bytes', maxLength: 16 },
  model: { layers: 2, heads: 2, headDim: 24, textChannels: 32, sparse: false },
  objective: { zeroTerminalSnr: true },
}

/** What a sweep adds to its trials: time between them, and how fast its books are kept. */
export const group: Group = {
  benchmarks: [
    {
      name: 'overhead',
      what: `time of a trial beyond the trainer's own from its first word to its last, ${trials} trials from the warm pool`,
      figure: 'value',
      unit: 'ms',
      goal: { at: 'most', value: 50 },
    },
    {
      name: 'transitions',
      what: `trial transitions with the journal flushed and the sampler asked and told, ${trialsARound} trials a round`,
      figure: 'value',
      unit: 'transitions/s',
      goal: { at: 'least', value: 500 },
    },
    {
      name: 'two-nodes',
      what: 'a step of two launchers of one rank each, on this machine with gloo, against one launcher of two ranks, global batch 2',
      figure: 'ratio',
      unit: '×',
      goal: null,
    },
  ],
  async *measure(bench) {
    const cwd = join(bench.scratch, 'sweep')
    mkdirSync(cwd)
    const world = runsWorldOf({ cwd, env: process.env, runsFolder: join(cwd, 'runs') })
    yield { name: 'transitions', series: { ours: await transitions(bench.rounds(rounds), world) } }
    const clips = clipsFor(bench.root, cwd)
    yield { name: 'overhead', series: { ours: await overheads(bench.rounds(trials), clips, world) }, note: 'milliseconds a trial' }
    yield await twoNodes(bench.rounds(nodeRounds), clips, world)
  },
}

function clipsFor(root: string, cwd: string): string {
  const { python, pythonPath } = findPython(root, process.env)
  const clips = join(cwd, 'clips')
  const made = spawnSync(python, ['-m', 'osplan.data.synthetic', clips, '--clips', '6'], {
    env: { ...process.env, PYTHONPATH: pythonPath },
    encoding: 'utf8',
  })
  if (made.status !== 0) throw new Error(`no clips: ${made.stderr}`)
  return clips
}

function sweepOf(name: string, count: number, data: string | null, world: RunsWorld): Sweep {
  const recipe = join(world.cwd, 'recipe.yaml')
  writeAtomically(recipe, JSON.stringify({ formatVersion: 1, name: 'small', stages: [stage] }))
  const space = { learningRate: { min: 1e-5, max: 1e-2, log: true }, 'ema.decay': { values: [0.9, 0.99] } }
  const loaded = sweepFrom({
    formatVersion: 1,
    name,
    recipe,
    stage: 'small',
    data,
    space,
    budget: { trials: count },
    sampler: { name: 'random' },
  })
  return sweepFor(loaded, {}, world)
}

/** Milliseconds between the ends of two trials that were not the trainer's. */
async function overheads(count: number, data: string, world: RunsWorld): Promise<number[]> {
  const sweep = sweepOf('overhead', count + 1, data, world)
  await driveSweep(sweep.folder, world)
  const ends = sweepJournal(sweep)
    .next()
    .flatMap((event) => (event.event === 'trialEnded' ? [event] : []))
  const runs = readSweepState(sweep).trials.map(({ run }) => findRun(world.runsFolder, run ?? ''))
  return ends.slice(1).map((event, place) => {
    const said = trainerJournal(filesOf(runs[event.trial]?.folder ?? '').trainer).next()
    const own = (said.at(-1)?.ts ?? 0) - (said[0]?.ts ?? 0)
    return 1000 * (event.ts - (ends[place]?.ts ?? 0) - own)
  })
}

/** Two nodes against one, in turns; the losses of both are the same, or the comparison is of two different things. */
async function twoNodes(count: number, data: string, world: RunsWorld): Promise<Measured> {
  const [ours, reference]: [number[], number[]] = [[], []]
  let difference = 0
  for (let round = 0; round < count; round += 1) {
    const two = await trainedBy(2, stage, nodeSteps, data, world)
    const one = await trainedBy(1, stage, nodeSteps, data, world)
    ours.push(1000 * two.secondsPerStep)
    reference.push(1000 * one.secondsPerStep)
    difference = Math.max(difference, ...two.losses.map((loss, at) => Math.abs(loss - (one.losses[at] ?? Number.NaN))))
  }
  if (!(difference < 1e-5)) throw new Error(`losses of two nodes and of one differ by ${difference}`)
  return { name: 'two-nodes', series: { ours, reference }, note: `milliseconds a step; losses differ by ${difference} at most` }
}

/** Transitions a second, round by round, in a sweep that grows. */
async function transitions(count: number, world: RunsWorld): Promise<number[]> {
  const sweep = sweepOf('transitions', 1_000_000, null, world)
  const session = SweepSession.open(
    { ...sweep, identity: { ...sweep.identity, sweep: { ...sweep.identity.sweep, warmPool: false } } },
    suggesterOf(sweep, world),
    world,
  )
  if (!session) throw new Error('another process has the sweep')
  const rates: number[] = []
  try {
    await session.suggest()
    for (let round = 0; round < count; round += 1) {
      const began = performance.now()
      for (let place = 0; place < trialsARound; place += 1) await walked(session)
      rates.push((1000 * trialsARound * transitionsATrial) / (performance.now() - began))
    }
  } finally {
    session.close()
  }
  return rates
}

/** One trial through all its states, without training anything. */
async function walked(session: SweepSession): Promise<void> {
  const trial = (await session.suggest())?.number ?? 0
  session.tell({ event: 'starting', trial, run: 'none', reused: false, prefix: [], branchedFrom: null, attemptsBefore: 0 })
  session.tell({ event: 'running', trial, attempt: 1 })
  const cost = { deviceSeconds: 1, runSeconds: 1, steps: 1 }
  session.tell({ event: 'trialEnded', trial, state: 'done', class: null, message: '', step: 1, value: 1, standardError: null, ...cost })
  const point = session.state.points[session.trial(trial).point]
  if (point) await session.tellPoint(point)
}
