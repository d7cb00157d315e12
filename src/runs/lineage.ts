import type { Change } from '../domain/diff/change.ts'
import { diffStages } from '../domain/diff/stage-diff.ts'
import { type LineageTree, lineageTrees, treeWith } from '../domain/run/lineage.ts'
import { endOf } from '../domain/run/state.ts'
import { bareSide, type StageSide } from '../domain/stage/origin.ts'
import { listRuns, type Run, readState } from '../store/runs.ts'

/** What a person wants to see of a run in its tree. */
export interface LineageRun {
  readonly id: string
  readonly stage: string
  readonly verb: Run['identity']['verb']
  readonly parent: string | undefined
  /** Step of the parent's checkpoint, and which of its weights were taken. */
  readonly from: { readonly step: number; readonly use: string } | undefined
  readonly step: number
  readonly steps: number
  readonly end: string | undefined
  /** Held-out loss when it began and when it ended, of what it would hand on. */
  readonly heldOut: { readonly first: number; readonly last: number } | undefined
  /** The run whose autoencoder it trains with, where that is one of ours. */
  readonly vae: string | undefined
  /** Settings that differ from the parent's, the dearest first; of a root, none. */
  readonly changes: readonly Pick<Change, 'path' | 'before' | 'after' | 'impact'>[]
}

/** The trees of all runs of a folder, or the one tree that holds a run. */
export function lineage(runsFolder: string, id?: string): LineageTree<LineageRun>[] {
  const runs = listRuns(runsFolder)
  const byId = new Map(runs.map((run) => [run.id, run]))
  const nodes = runs.map((run) => nodeOf(run, runs, byId))
  if (id === undefined) return lineageTrees(nodes)
  const tree = treeWith(id, nodes)
  return tree ? [tree] : []
}

function nodeOf(run: Run, runs: readonly Run[], byId: ReadonlyMap<string, Run>): LineageRun {
  const { parent, verb, replays } = run.identity
  const parentId = replays ?? parent?.run
  const above = parentId === undefined ? undefined : byId.get(parentId)
  const state = readState(run)
  const losses = state.heldOut.map(({ raw, ema }) => (ema ?? raw).loss)
  const [first, last] = [losses[0], losses.at(-1)]
  return {
    id: run.id,
    stage: run.stage.name,
    verb,
    parent: parentId,
    from: parent ? { step: parent.step, use: parent.use } : undefined,
    step: state.step,
    steps: state.steps ?? run.stage.steps,
    end: endOf(state)?.reason,
    heldOut: first === undefined || last === undefined ? undefined : { first, last },
    vae: runs.find(({ folder }) => run.identity.inputs.vae?.startsWith(`${folder}/`))?.id,
    changes: above ? changesBetween(above, run) : [],
  }
}

/** Addresses of weights and names change with every hand-off and say nothing. */
const ofTheHandOff: readonly string[] = ['name', 'notes', 'init.weights', 'init.use', 'vae.weights', 'data.source', 'output']

function changesBetween(parent: Run, run: Run): LineageRun['changes'] {
  const side = ({ id, stage }: Run): StageSide => bareSide(id, stage)
  return diffStages(side(parent), side(run))
    .changes.filter(({ path }) => !ofTheHandOff.includes(path))
    .map(({ path, before, after, impact }) => ({ path, before, after, impact }))
}
