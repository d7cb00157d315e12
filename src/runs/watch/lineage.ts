import type { RunWatch } from './run-watch.ts'
import type { RunSummary } from './summary.ts'

/** A run in the tree of those that began with each other's weights. */
export interface LineageEntry {
  readonly id: string
  readonly stage: string
  readonly standing: string
  /** Step of the parent's checkpoint that it began with; null where the tree begins. */
  readonly fromStep: number | null
  readonly use: string | null
}

/** Where a run comes from, oldest first, and what came of it. */
export interface Lineage {
  readonly ancestors: readonly LineageEntry[]
  readonly descendants: readonly (LineageEntry & { readonly parent: string })[]
}

export function lineageOf({ run }: RunWatch, { runs }: { readonly runs: readonly RunSummary[] }): Lineage {
  const byId = new Map(runs.map((summary) => [summary.id, summary]))
  const ancestors: LineageEntry[] = []
  const seen = new Set([run.id])
  for (let parent = run.identity.parent; parent && !seen.has(parent.run); ) {
    seen.add(parent.run)
    const found = byId.get(parent.run)
    ancestors.unshift({
      id: parent.run,
      stage: found?.stage ?? '',
      standing: found?.standing ?? 'not here any more',
      fromStep: parent.step,
      use: parent.use,
    })
    parent = (found?.parent ?? null) as typeof parent
  }
  const descendants: (LineageEntry & { parent: string })[] = []
  const among = new Set([run.id])
  for (const summary of runs.toSorted((a, b) => (a.createdAt < b.createdAt ? -1 : 1))) {
    const { parent, id, stage, standing } = summary
    if (!parent || !among.has(parent.run) || among.has(id)) continue
    among.add(id)
    descendants.push({ id, stage, standing, fromStep: parent.step, use: parent.use, parent: parent.run })
  }
  return { ancestors, descendants }
}
