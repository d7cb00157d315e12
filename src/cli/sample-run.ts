import { withSetOptions } from '../config/overlay.ts'
import { UserError } from '../domain/errors.ts'
import { bareSide } from '../domain/stage/origin.ts'
import { parseAddress } from '../runs/address.ts'
import { sendCommand } from '../runs/control.ts'
import { sampleRun } from '../runs/samples.ts'
import { findRun } from '../store/runs.ts'
import { runsFolderOf } from './folders.ts'
import type { RunOptions, TrainingWorld } from './run-world.ts'
import { writeJson, writeLines } from './terminal.ts'

export interface SampleArguments extends RunOptions {
  run: string
  prompt: string[]
  from: string[]
  task: 't2v' | 'i2v' | 'transition' | 'continuation' | undefined
  weights: 'ema' | 'raw' | 'best'
  steps: number | undefined
  guidance: number | undefined
  seed: number | undefined
  set: string[]
  out: string | undefined
  now: boolean
  json: boolean
}

const formatVersion = 1

export async function runSample(args: SampleArguments, world: TrainingWorld): Promise<void> {
  const runsFolder = runsFolderOf(args.runs, world)
  const address = parseAddress(args.run)
  const run = findRun(runsFolder, address.kind === 'run' ? address.run : args.run)
  const runs = await world.runsWorld({ runsFolder, pythonEnv: args.pythonEnv })
  if (args.now) {
    refuseOwn(args)
    const { step } = await sendCommand(run, { name: 'sample', reason: null }, runs)
    if (args.json) writeJson(world.stdout, { formatVersion, run: run.id, beforeStep: step })
    else writeLines(world.stdout, [`${run.id}: sample before step ${step}`])
    return
  }
  const { stage } = withSetOptions(bareSide(run.id, run.stage), args.set)
  const { prompt, guidance, weights, from, task, steps, seed, out } = args
  const at = address.kind === 'run' ? address.checkpoint : undefined
  const sampled = await sampleRun(run, stage, { prompts: prompt, guidanceScale: guidance, weights, from, task, steps, seed, at, out }, runs)
  if (args.json) writeJson(world.stdout, { formatVersion, run: run.id, ...sampled })
  else writeLines(world.stdout, [`${run.id}@${sampled.step} (${sampled.weights})`, ...sampled.samples.map(lineOf)])
}

/** A trainer has the samples of its stage and no others. */
function refuseOwn(args: SampleArguments): void {
  const own = (['prompt', 'from', 'task', 'steps', 'guidance', 'seed', 'set', 'out'] as const).find(
    (name) => [args[name]].flat()[0] !== undefined,
  )
  if (own === undefined) return
  throw new UserError('USAGE', `sample --now: expected the stage’s own samples, got --${own}`, {
    hint: 'leave --now out to sample the newest checkpoint that way',
  })
}

function lineOf({ path, prompt }: { readonly path: string; readonly prompt: string }): string {
  return `  ${path}  ${prompt}`
}
