import type { StageDiff } from '../../domain/diff/stage-diff.ts'
import { groups } from '../../domain/stage/metadata.ts'
import { valueText } from './words.ts'

/** The group of what follows from several settings together. */
export const follows = 'what follows'

/** One thing that is not the same in all of them: its value in each. */
export interface Differing {
  readonly group: string
  readonly name: string
  readonly costs: string
  readonly values: readonly unknown[]
}

/** Each run's difference from the first one, as one table in the order of the groups. */
export function differing(diffs: readonly Pick<StageDiff, 'changes' | 'derived'>[]): Differing[] {
  const rows = new Map<string, Differing>()
  diffs.forEach(({ changes, derived }, place) => {
    const entries = [
      ...changes.map(({ path, group, impact, before, after }) => ({ group, name: path, costs: impact, before, after })),
      ...derived.map(({ name, before, after }) => ({ group: follows, name, costs: '', before, after })),
    ]
    for (const { before, after, ...entry } of entries) {
      const key = `${entry.group} ${entry.name}`
      const known = rows.get(key) ?? { ...entry, values: new Array<unknown>(diffs.length + 1).fill(before) }
      rows.set(key, { ...known, values: known.values.with(place + 1, after) })
    }
  })
  const order = [...groups, follows] as readonly string[]
  const told = [...rows.values()].filter(({ values }) => new Set(values.map(valueText)).size > 1)
  return told.toSorted((a, b) => order.indexOf(a.group) - order.indexOf(b.group))
}
