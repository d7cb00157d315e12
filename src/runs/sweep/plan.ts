import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { LoadedSweep } from '../../config/sweep-file.ts'
import { UserError } from '../../domain/errors.ts'
import { fieldOf } from '../../domain/stage/fields.ts'
import type { Stage } from '../../domain/stage/schema.ts'
import { gridPoints, type Values } from '../../domain/sweep/space.ts'
import { measuredEvery, objectiveStep, trialStage } from '../../domain/sweep/trial-stage.ts'
import { listRuns, readState } from '../../store/runs.ts'
import { exampleJob } from '../job.ts'
import { planStage } from '../plan.ts'
import { ask } from '../questions.ts'
import type { RunsWorld } from '../world.ts'
import { studyOf } from './suggester.ts'
import { isForeseeable, mostTogether } from './together.ts'

/** Points looked at before a sweep of a sampler begins: what it will suggest depends on what comes of the first ones. */
const mostSampled = 64

/** What a sweep would train. */
export interface SweepPlan {
  readonly name: string
  readonly stage: string
  /** Stages before it that are trained once. */
  readonly prefix: readonly string[]
  /** Points of the grid, or those a sampler was asked for to look at. */
  readonly points: { readonly looked: number; readonly feasible: number; readonly isWhole: boolean }
  readonly infeasible: readonly { readonly reason: string; readonly points: number }[]
  /** Points with the very settings of another. */
  readonly duplicates: number
  readonly trials: number | null
  readonly stepsPerTrial: number
  readonly measuredEvery: number | null
  /** Optimiser steps where nothing is given up, those of the prefix included. */
  readonly steps: number | null
  /** Hours of devices by what a run of this stage took here; null where none has trained yet. */
  readonly hours: number | null
  /** Bytes of the checkpoints a trial keeps, and of all trials. */
  readonly bytesPerTrial: number
  readonly bytes: number | null
  readonly notes: readonly string[]
}

/** Looks at a sweep without training. Raises UserErrors SAMPLER_MISSING and SWEEP_INFEASIBLE, and those of a stage's plan. */
export async function planSweep(loaded: LoadedSweep, world: RunsWorld): Promise<SweepPlan> {
  const { sweep, axes, stages } = loaded
  const swept = stages.at(-1)
  if (!swept) throw new Error('a sweep without stages')
  const isGrid = sweep.sampler.name === 'grid'
  const points = isGrid ? gridPoints(axes) : await sampled(loaded, world)
  const made = points.map((values) => trialStage(swept.stage, sweep, values, sweep.seeds[0] ?? null))
  const feasible = made.flatMap((entry) => ('stage' in entry ? [entry.stage] : []))
  const infeasible = countsOf(made.flatMap((entry) => ('infeasible' in entry ? [entry.infeasible] : [])))
  if (feasible.length === 0 && points.length > 0)
    throw new UserError('SWEEP_INFEASIBLE', `${sweep.name}: expected points that are stages, got none: ${infeasible[0]?.reason}`, {
      hint: 'narrow the space, or compute a setting from the others under `derived`',
    })
  const seeds = Math.max(1, sweep.seeds.length)
  const whole = isGrid ? feasible.length * seeds : null
  const trials = sweep.budget.trials === null ? whole : Math.min(sweep.budget.trials, whole ?? sweep.budget.trials)
  const stepsPerTrial = Math.max(0, ...feasible.map((stage) => objectiveStep(stage, sweep)))
  const prefixSteps = stages.slice(0, -1).reduce((sum, { stage }) => sum + stage.steps, 0)
  const { answers } = await planStage(swept, world)
  const bytesPerTrial = answers.parameters.total * 4 * copies(swept.stage) * kept(swept.stage)
  const seconds = secondsPerStep(swept.stage, world)
  return {
    name: sweep.name,
    stage: sweep.stage,
    prefix: stages.slice(0, -1).map(({ stage }) => stage.name),
    points: { looked: points.length, feasible: feasible.length, isWhole: isGrid },
    infeasible,
    duplicates: feasible.length - new Set(feasible.map((stage) => JSON.stringify(stage))).size,
    trials,
    stepsPerTrial,
    measuredEvery: measuredEvery(swept.stage, sweep),
    steps: trials === null ? null : trials * stepsPerTrial + prefixSteps,
    hours: trials === null || seconds === undefined ? null : (trials * stepsPerTrial * seconds * devices(swept.stage)) / 3600,
    bytesPerTrial,
    bytes: trials === null ? null : trials * bytesPerTrial,
    notes: notesOf(loaded, swept.stage),
  }
}

/**
 * What a sweep would send to its engine, as text: each stage before the swept one, the arrays of the trials that are known beforehand,
 * and one trial. A run's folder takes the place of the example's.
 */
export async function renderSweep(loaded: LoadedSweep, world: RunsWorld): Promise<string[]> {
  const { sweep, axes, stages } = loaded
  const { engine } = world
  const earlier = stages.slice(0, -1).map(({ stage }) => engine.render(exampleJob(stage, world)))
  const base = stages.at(-1)?.stage
  if (!base) throw new Error('a sweep without stages')
  const together = isForeseeable(sweep, axes, sweep.budget) ? await mostTogether(world.chosenEngine, engine) : 0
  const points = sweep.sampler.name === 'grid' ? gridPoints(axes) : await sampled(loaded, world)
  const made = points.flatMap((values) => {
    const trial = trialStage(base, sweep, values, sweep.seeds[0] ?? null)
    return 'stage' in trial ? [trial.stage] : []
  })
  const jobs = made.slice(0, Math.min(together, sweep.budget.trials ?? together)).map((stage, at) => exampleJob(stage, world, at))
  const folder = join(world.runsFolder, 'sweeps', `DATE-TIME-${sweep.name}-0000`)
  const arrays = jobs.length > 0 ? await engine.arrays?.render(jobs, { folder, atATime: sweep.parallel }) : undefined
  return [...earlier, ...(arrays ?? []), engine.render(exampleJob(made[0] ?? base, world))]
}

/** Points the sampler suggests while it knows nothing, from a storage that is thrown away. */
async function sampled({ sweep, axes, stages }: LoadedSweep, world: RunsWorld): Promise<Values[]> {
  const folder = mkdtempSync(join(tmpdir(), 'stagewright-plan-'))
  const study = studyOf(sweep, join(folder, 'study.log'), stages.at(-1)?.stage.steps ?? 1)
  try {
    const count = Math.min(mostSampled, sweep.budget.trials ?? mostSampled)
    const points: Values[] = []
    for (let number = 0; number < count; number += 1) {
      const { values } = (await ask('sweepAsk', { study, number, space: axes, given: null }, world)) as { values: Values }
      points.push(values)
    }
    return points
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

function countsOf(reasons: readonly string[]): { reason: string; points: number }[] {
  const counts = new Map<string, number>()
  for (const reason of reasons) counts.set(reason, (counts.get(reason) ?? 0) + 1)
  return [...counts].map(([reason, points]) => ({ reason, points })).sort((a, b) => b.points - a.points)
}

/** Copies of the parameters in a checkpoint: weights, average, two moments. */
function copies({ ema }: Stage): number {
  return ema.enabled ? 4 : 3
}

function kept({ checkpoint, steps }: Stage): number {
  const written = Math.ceil(steps / checkpoint.everySteps)
  const forGood = checkpoint.keepEverySteps === null ? 0 : Math.floor(steps / checkpoint.keepEverySteps)
  return Math.max(1, Math.min(written, (checkpoint.keepLast ?? written) + checkpoint.keepBest + forGood))
}

function devices({ parallel }: Stage): number {
  return parallel.processes * parallel.nodes
}

/** Seconds a step of this stage took in the newest run of that name. */
function secondsPerStep(stage: Stage, { runsFolder }: RunsWorld): number | undefined {
  const run = listRuns(runsFolder).findLast((candidate) => candidate.stage.name === stage.name && readState(candidate).points.length > 0)
  const points = run ? readState(run).points.map(({ secondsPerStep }) => secondsPerStep) : []
  return points.sort((a, b) => a - b)[Math.floor(points.length / 2)]
}

function notesOf({ sweep, axes }: LoadedSweep, stage: Stage): string[] {
  const incomparable = axes.filter(({ path }) => fieldOf(path)?.group === 'objective' || /^(shape|data|heldOut|vae)\./.test(path))
  const notes = incomparable.map(
    ({ path }) => `${path} changes what the held-out loss is measured on: losses of its values may not compare`,
  )
  if (stage.data.heldOutClips === 0) notes.push('data.heldOutClips is 0: nothing will be measured')
  if (sweep.seeds.length < 2) notes.push('one seed: the errors are those of the measurement, not of training again')
  return notes
}
