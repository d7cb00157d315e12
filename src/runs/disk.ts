import { existsSync, statfsSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import type { Stage } from '../domain/stage/schema.ts'

const floatBytes = 4
const adamMoments = 2

/** What the checkpoints of a stage take on the disk of the runs, against what is free there now. */
export interface DiskPlan {
  readonly checkpointBytes: number
  /** Most checkpoints that lie there at once: those that are kept, and the one being written before an older one goes. */
  readonly checkpoints: number
  readonly bytes: number
  readonly freeBytes: number
}

interface Parameters {
  readonly total: number
  readonly phases: readonly { readonly trainable: number }[]
}

/** Sizes in float32: weights, averages, and the optimiser's moments of what trains. */
export function diskPlan(stage: Stage, { total, phases }: Parameters, runsFolder: string): DiskPlan {
  const trained = Math.max(0, ...phases.map((phase) => phase.trainable))
  const weights = total * (stage.ema.enabled ? 2 : 1)
  const checkpointBytes = floatBytes * (weights + adamMoments * trained)
  const { keepLast, keepBest, everySteps, keepEverySteps, keepEnds } = stage.checkpoint
  const made = Math.ceil(stage.steps / everySteps)
  const ends = keepEnds ? stage.phases.length : 0
  const forGood = ends + (keepEverySteps === null ? 0 : Math.floor(stage.steps / keepEverySteps))
  const checkpoints = keepLast === null ? made + ends : Math.min(made + ends, keepLast + keepBest + forGood + 1)
  return { checkpointBytes, checkpoints, bytes: checkpointBytes * checkpoints, freeBytes: freeAt(runsFolder) }
}

/** Bytes a person without privileges may still write where a folder lies, or will lie. */
function freeAt(folder: string): number {
  let at = resolve(folder)
  while (!existsSync(at) && dirname(at) !== at) at = dirname(at)
  const { bavail, bsize } = statfsSync(at)
  return bavail * bsize
}
