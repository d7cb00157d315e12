import type { EngineChoice } from '../../domain/engine-choice.ts'
import type { Axis, SweepFile } from '../../domain/sweep/schema.ts'
import type { Engine } from '../../engines/engine.ts'

/*
 * Which trials are known before others end, so that a cluster may have them all.
 */

/** Samplers that suggest the same whatever has been told to them. */
const independent: ReadonlySet<SweepFile['sampler']['name']> = new Set(['grid', 'random', 'qmc'])
/** Trials that are sent as one at most: each is watched until its end. */
const most = 100

/** Whether what is suggested next may depend on what has been told before. */
export function learns({ sampler, deterministic }: Pick<SweepFile, 'sampler' | 'deterministic'>): boolean {
  return deterministic || !independent.has(sampler.name)
}

/** Whether the trials to come are known before those in training end. Longer ones go on from shorter ones. */
export function isForeseeable(
  sweep: Pick<SweepFile, 'sampler' | 'deterministic'>,
  axes: readonly Pick<Axis, 'path'>[],
  budget: SweepFile['budget'],
): boolean {
  return !learns(sweep) && budget.steps === null && budget.hours === null && !axes.some(({ path }) => path === 'steps')
}

/** How many trials may be sent as one; 0 where each goes alone. */
export async function mostTogether(choice: EngineChoice | undefined, { arrays }: Pick<Engine, 'arrays'>): Promise<number> {
  const largest = choice?.kind === 'slurm' && arrays ? await arrays.largest() : 0
  return largest > 1 ? most : 0
}
