import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { findCheckpoint } from '../store/checkpoints.ts'
import { findRun, type Run } from '../store/runs.ts'
import type { WeightChoice } from '../weights/layout.ts'
import type { WeightDiff } from '../weights/weight-diff.ts'
import { parseAddress } from './address.ts'
import { everTrainable } from './plan.ts'
import type { RunsWorld } from './world.ts'

/** Weights that were named: where they lie, and the run that trained them where it was one. */
export interface NamedWeights {
  readonly path: string
  readonly run: Run | undefined
}

/** A path, or the newest or a named checkpoint of a run. Raises UserErrors RUN_… and CHECKPOINT_MISSING. */
export function namedWeights(address: string, place: { cwd: string; runsFolder: string }): NamedWeights {
  const path = resolve(place.cwd, address)
  if (existsSync(path)) return { path, run: undefined }
  const parsed = parseAddress(address)
  if (parsed.kind !== 'run') return { path, run: undefined }
  const run = findRun(place.runsFolder, parsed.run)
  return { path: findCheckpoint(run, parsed.checkpoint).folder, run }
}

/** What a stage said would train, held against what did. */
export interface TrainedAsSaid {
  readonly run: string
  /** Frozen in every phase and yet different. */
  readonly frozenChanged: readonly string[]
  /** Trainable in some phase and yet the same, bit for bit. */
  readonly trainableSame: readonly string[]
}

/** Joins the difference of two sets of weights with the stage of the run that made the second from the first. */
export async function trainedAsSaid(run: Run, diff: WeightDiff, names: Iterable<string>, world: RunsWorld): Promise<TrainedAsSaid> {
  const trainable = new Set(await everTrainable(run.stage, world))
  const changed = new Set(diff.changes.filter(({ kind }) => kind !== 'only-a').map(({ name }) => name))
  const all = [...names]
  return {
    run: run.id,
    frozenChanged: all.filter((name) => changed.has(name) && !trainable.has(name)),
    trainableSame: all.filter((name) => trainable.has(name) && !changed.has(name)),
  }
}

/** The moving average lags behind its weights, so both sides are looked at alike: the raw ones where a run is compared. */
export function choiceFor(use: WeightChoice | undefined, sides: readonly NamedWeights[]): WeightChoice | undefined {
  return use ?? (sides.some(({ run }) => run) ? 'raw' : undefined)
}
