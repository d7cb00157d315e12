import { type Group, groups, type Impact, impacts } from '../stage/metadata.ts'
import type { Finding, StageSide } from '../stage/origin.ts'
import { type Change, type Compared, changeOf, comparedSettings, isDefault, type Renaming, renamingOf } from './change.ts'
import { type DataSize, type Derived, derivedOf } from './derived.ts'

/** What changed from one stage to another, and what it means. */
export interface StageDiff {
  readonly a: SideLabel
  readonly b: SideLabel
  /** In the order of the fine-tuning checklist. */
  readonly changes: readonly Change[]
  /** Settings upstream's versions name differently while the value stayed. */
  readonly renames: readonly Renaming[]
  /** With `full` only: settings with one value that one side chose and the other has by default. */
  readonly chosen: readonly Compared[]
  /** With `full` only: everything else that is the same. */
  readonly unchanged: readonly Compared[]
  readonly derived: readonly Derived[]
  readonly findings: readonly Finding[]
  /** Settings that are the same and are not listed. */
  readonly hidden: number
}

export interface SideLabel {
  readonly label: string
  readonly trainerVersion?: string
}

export interface DiffOptions extends DataSize {
  /** Also lists what is the same. */
  readonly full?: boolean
  /** The rules that judge a stage against the one it comes from. */
  readonly findingsOf?: (side: StageSide, parent?: StageSide) => readonly Finding[]
}

/** Compares two complete stages by meaning: what changed, what follows from it, and what to look at. */
export function diffStages(a: StageSide, b: StageSide, options: DiffOptions = {}): StageDiff {
  const changes: Change[] = []
  const renames: Renaming[] = []
  const same: Compared[] = []
  for (const pair of comparedSettings(a, b)) {
    const { compared } = pair
    const change = changeOf(pair, a, b)
    const renaming = renamingOf(compared, a, b)
    if (change) changes.push(change)
    else if (renaming) renames.push(renaming)
    else same.push(compared)
  }
  const chosen = same.filter(({ origin }) => isDefault(origin.before) !== isDefault(origin.after))
  return {
    a: labelOf(a),
    b: labelOf(b),
    changes: changes.toSorted(byGroup),
    renames: distinctRenames(renames).toSorted(byGroup),
    chosen: options.full ? chosen.toSorted(byGroup) : [],
    unchanged: options.full ? same.filter((setting) => !chosen.includes(setting)).toSorted(byGroup) : [],
    derived: derivedOf(a.stage, b.stage, options),
    findings: distinct([...a.findings, ...b.findings, ...(options.findingsOf?.(b, a) ?? [])]),
    hidden: options.full ? 0 : same.length,
  }
}

/** Whether every setting of both sides means the same. */
export function isSame({ changes }: StageDiff): boolean {
  return changes.length === 0
}

/** The most expensive impact among changes. */
export function worstImpact(changes: readonly Pick<Change, 'impact'>[]): Impact {
  return changes.reduce<Impact>((worst, { impact }) => (impacts.indexOf(impact) > impacts.indexOf(worst) ? impact : worst), 'none')
}

/** Entries by their group, in the order of the checklist; empty groups are left out. */
export function byGroups<T extends { readonly group: Group }>(entries: readonly T[]): { group: Group; entries: T[] }[] {
  return groups
    .map((group) => ({ group, entries: entries.filter((entry) => entry.group === group) }))
    .filter((part) => part.entries.length > 0)
}

function byGroup(a: { group: Group; impact?: Impact }, b: { group: Group; impact?: Impact }): number {
  const dearer = (b.impact ? impacts.indexOf(b.impact) : 0) - (a.impact ? impacts.indexOf(a.impact) : 0)
  return groups.indexOf(a.group) - groups.indexOf(b.group) || dearer
}

/** One flag may fill several fields; its renaming is told once. */
function distinctRenames(renames: readonly Renaming[]): Renaming[] {
  return renames.filter(
    ({ before, after }, place) => renames.findIndex((other) => other.before === before && other.after === after) === place,
  )
}

function labelOf({ label, trainerVersion }: StageSide): SideLabel {
  return { label, ...(trainerVersion === undefined ? {} : { trainerVersion }) }
}

function distinct(findings: readonly Finding[]): Finding[] {
  return [...new Map(findings.map((finding) => [JSON.stringify([finding.rule, finding.where, finding.message]), finding])).values()]
}
