import type { RunState } from '../domain/run/state.ts'
import { setValueAt, stageFields } from '../domain/stage/fields.ts'
import type { Origin, StageSide } from '../domain/stage/origin.ts'
import { type Stage, type StagePath, stageSchema } from '../domain/stage/schema.ts'
import { findCheckpoint } from '../store/checkpoints.ts'
import { findRun, type Run, readState } from '../store/runs.ts'

/**
 * The stage a run trained, with the changes made while it trained: all of them, or those before a checkpoint.
 * Raises UserErrors RUN_… and CHECKPOINT_MISSING.
 */
export function runSide(runsFolder: string, address: string, which: number | 'best' | undefined): StageSide {
  const run = findRun(runsFolder, address)
  return sideOfRun(run, readState(run).changes, which)
}

/** The same of a run whose live changes are known. */
export function sideOfRun(run: Run, all: RunState['changes'], which: number | 'best' | undefined): StageSide {
  const step = which === undefined ? undefined : findCheckpoint(run, which).step
  const changes = all.filter((change) => stageFields().has(change.path) && (step === undefined || change.step <= step))
  const stage = structuredClone(run.stage) as Stage
  const origins = new Map<StagePath, Origin>([...stageFields().keys()].map((path) => [path, { layer: 'run', name: run.id }]))
  for (const { path, effective, step: at } of changes) {
    setValueAt(stage, path, effective)
    origins.set(path, { layer: 'run', name: `${run.id}, changed at step ${at}` })
  }
  return { label: step === undefined ? run.id : `${run.id}@${step}`, stage: stageSchema.parse(stage), origins, findings: [] }
}
