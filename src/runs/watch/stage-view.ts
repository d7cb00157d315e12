import { diffStages, type StageDiff } from '../../domain/diff/stage-diff.ts'
import { UserError } from '../../domain/errors.ts'
import { stageFindings } from '../../domain/findings/stage-findings.ts'
import { stageFields, valueAt } from '../../domain/stage/fields.ts'
import type { Group, Impact } from '../../domain/stage/metadata.ts'
import type { Origin, StageSide } from '../../domain/stage/origin.ts'
import { keptOrigins } from '../../store/origins.ts'
import { parseAddress } from '../address.ts'
import { resolveSide } from '../addresses.ts'
import { sideOfRun } from '../run-side.ts'
import type { RunsWorld } from '../world.ts'
import type { RunWatch } from './run-watch.ts'
import type { WatchedRuns } from './watched-runs.ts'

/** One setting of a run's stage. */
export interface SettingLine {
  readonly path: string
  readonly group: Group
  readonly value: unknown
  readonly default: unknown
  readonly origin: Origin
  readonly unit: string | null
  readonly meaning: string
  readonly impact: Impact
}

/** Every setting of a run with where it comes from; changes made while it trained count. */
export function settingsOf(watch: RunWatch): SettingLine[] {
  const { stage, origins } = sideOfRun(watch.run, watch.state().changes, undefined)
  const kept = keptOrigins(watch.run)
  return [...stageFields().values()].map(({ path, group, unit, meaning, impact, default: fallback }) => ({
    path,
    group,
    value: valueAt(stage, path) ?? null,
    default: fallback ?? null,
    origin: changedOrigin(origins.get(path)) ?? kept.get(path) ?? { layer: 'run' },
    unit: unit ?? null,
    meaning,
    impact,
  }))
}

function changedOrigin(origin: Origin | undefined): Origin | undefined {
  return origin?.name?.includes(', changed at step ') ? origin : undefined
}

/**
 * The difference of two stages that a page may name: runs, their checkpoints, upstream's published stages, defaults. Files may not be named
 * from there. Raises UserError ADDRESS_INVALID for them, and those of what is read.
 */
export async function diffFor(a: string, b: string, runs: WatchedRuns, world: RunsWorld): Promise<StageDiff> {
  const [left, right] = [await sideFor(a, runs, world), await sideFor(b, runs, world)]
  return diffStages(left, right, { findingsOf: stageFindings })
}

async function sideFor(address: string, runs: WatchedRuns, world: RunsWorld): Promise<StageSide> {
  const parsed = parseAddress(address)
  if (parsed.kind === 'run') {
    const watch = await runs.watch(parsed.run)
    const { changes } = watch.state()
    const { checkpoint: step } = parsed
    if (typeof step !== 'number') return sideOfRun(watch.run, changes, step)
    // What was set at a step is known whether or not its checkpoint is still there.
    const before = changes.filter((change) => change.step <= step)
    return { ...sideOfRun(watch.run, before, undefined), label: `${watch.run.id}@${step}` }
  }
  if (parsed.kind === 'catalogue' || parsed.kind === 'defaults') return resolveSide(address, world)
  throw new UserError('ADDRESS_INVALID', `${address}: expected a run, RUN@STEP, v1.3/STAGE or defaults, got a file`, {
    hint: '`stagewright diff` compares files',
  })
}
