import { outsideReason, type Values } from '../../domain/sweep/space.ts'
import { trialStage } from '../../domain/sweep/trial-stage.ts'
import { findSweep, readSweepState, type Sweep } from '../../store/sweeps.ts'
import type { RunsWorld } from '../world.ts'

/** Finished points of the sweep that another was forked from, as far as they lie in its space. */
export function inheritedPoints({ identity }: Sweep, { runsFolder }: RunsWorld): Values[] {
  if (identity.forkedFrom === null || identity.sweep.sampler.name === 'grid') return []
  const { points } = readSweepState(findSweep(runsFolder, identity.forkedFrom))
  const base = identity.stages.at(-1)
  const isStage = (values: Values) => base !== undefined && 'stage' in trialStage(base, identity.sweep, values, null)
  const finished = points.filter(
    ({ told, values }) => told?.state === 'done' && outsideReason(identity.axes, values) === undefined && isStage(values),
  )
  return finished.map(({ values }) => values)
}
