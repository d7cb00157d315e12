import { resolve } from 'node:path'
import { z } from 'zod'
import { type Stage, stageSchema } from '../domain/stage/schema.ts'
import { findCheckpoint } from '../store/checkpoints.ts'
import { filesOf, type Run } from '../store/runs.ts'
import { weightsOf } from './hand-off.ts'
import { absoluteFiles } from './local-paths.ts'
import { osplanEvents } from './osplan-request.ts'
import type { RunsWorld } from './world.ts'

/** What is sampled beside what the stage names: prompts, frames to go on from, weights. */
export interface SampleRequest {
  readonly prompts: readonly string[]
  /** Images or clips, one per prompt in turn; `FIRST,LAST` for a transition. */
  readonly from: readonly string[]
  readonly task?: Stage['samples']['task'] | undefined
  readonly steps?: number | undefined
  readonly guidanceScale?: number | undefined
  readonly seed?: number | undefined
  readonly weights: Stage['init']['use']
  readonly at: number | 'best' | undefined
  /** Folder of the files; undefined: the run's samples. */
  readonly out: string | undefined
}

/** Videos that were written. */
export interface Sampled {
  readonly step: number
  readonly weights: 'ema' | 'raw'
  readonly samples: readonly { readonly path: string; readonly prompt: string }[]
}

const answer = z.discriminatedUnion('event', [
  z.object({ event: z.literal('sample'), path: z.string(), prompt: z.string() }),
  z.object({ event: z.literal('sampled'), count: z.int() }),
])

/** Samples of a run's checkpoint, in a process of their own; nothing of the run changes. Raises UserErrors SAMPLE_… and CHECKPOINT_…. */
export async function sampleRun(run: Run, stage: Stage, request: SampleRequest, world: RunsWorld): Promise<Sampled> {
  const checkpoint = findCheckpoint(run, request.at ?? (request.weights === 'best' ? 'best' : undefined))
  // A run that keeps no moving average has raw weights to show.
  const use = request.weights !== 'raw' && checkpoint.hasEma ? 'ema' : 'raw'
  const { path: weights } = weightsOf(run, checkpoint, use)
  const stamp = world.now().toISOString().slice(0, 19).replace(/[-:]/g, '').replace('T', '-')
  const asked = {
    stage: sampledStage(stage, request, world.cwd),
    weights,
    vae: run.identity.inputs.vae,
    out: request.out === undefined ? filesOf(run.folder).samples : resolve(world.cwd, request.out),
    name: `step-${String(checkpoint.step).padStart(8, '0')}-${use}-${stamp}`,
  }
  return { step: checkpoint.step, weights: use, samples: await askPython(asked, world) }
}

/** The stage with what was asked for in place of its own samples; paths are seen from the caller's folder. */
function sampledStage(stage: Stage, request: SampleRequest, cwd: string): Stage {
  const { prompts, from, task, steps, guidanceScale, seed } = request
  const samples = {
    ...stage.samples,
    ...(prompts.length > 0 ? { prompts } : {}),
    ...(from.length > 0 ? { from: from.map((files) => absoluteFiles(files, cwd)) } : {}),
    ...(task === undefined ? {} : { task }),
    ...(steps === undefined ? {} : { steps }),
    ...(guidanceScale === undefined ? {} : { guidanceScale }),
  }
  return stageSchema.parse({ ...stage, samples, ...(seed === undefined ? {} : { seed }) })
}

async function askPython(request: object, world: RunsWorld): Promise<Sampled['samples']> {
  const events = (await osplanEvents('sample', request, world)).map((event) => answer.parse(event))
  return events.flatMap((event) => (event.event === 'sample' ? [{ path: event.path, prompt: event.prompt }] : []))
}
