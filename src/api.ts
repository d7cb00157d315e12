/*
 * The library's front door: what a script may import from `stagewright`. Recipes and their layers, differences, runs and their
 * journals, hand-offs and control.
 */

export { loadRecipe, type Recipe } from './config/recipe.ts'
export { diffStages, type StageDiff } from './domain/diff/stage-diff.ts'
export { UserError } from './domain/errors.ts'
export type { Command, RunIdentity, SupervisorEvent, TrainerEvent } from './domain/protocol.ts'
export { endOf, newestAttempt, type RunEnd, type RunEvent, type RunState } from './domain/run/state.ts'
export { defaultStage, stageFields } from './domain/stage/fields.ts'
export type { Finding, Origin, StageSide } from './domain/stage/origin.ts'
export { type Stage, type StageInput, stageSchema } from './domain/stage/schema.ts'
export type { SweepInput } from './domain/sweep/schema.ts'
export type { Trial } from './domain/sweep/state.ts'
export { resolveSide, resolveSides } from './runs/addresses.ts'
export { attach } from './runs/attach.ts'
export { chainPlan, startFound, trainChain, withData } from './runs/chain.ts'
export { chainOf, followChain, startChain } from './runs/chain-driver.ts'
export { sendCommand, stopRun } from './runs/control.ts'
export { advanceRun, branchRun, continueRun, type Prepared, prepareRun, startRun } from './runs/launch.ts'
export { planStage, type StagePlan } from './runs/plan.ts'
export { settledState } from './runs/supervise.ts'
export { ScriptSweep, sweep } from './runs/sweep/script.ts'
export type { RunsWorld } from './runs/world.ts'
export { runsWorldOf } from './runs-world.ts'
export { checkpointsOf, findCheckpoint, type StoredCheckpoint } from './store/checkpoints.ts'
export { findRun, listRuns, openRun, type Run, readState } from './store/runs.ts'
