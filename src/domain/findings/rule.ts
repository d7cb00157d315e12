import type { Finding, Severity, StageSide } from '../stage/origin.ts'
import type { StagePath } from '../stage/schema.ts'

/** What a rule looks at: a stage, and the one it starts from where that is known. */
export interface Lineage {
  readonly side: StageSide
  readonly parent: StageSide | undefined
}

/** A check with a stable name. Its findings share severity, reason and source. */
export interface Rule {
  readonly name: string
  readonly severity: Severity
  /** Why it matters; the hint of its findings. */
  readonly hint: string
  /** Where the rule comes from. */
  readonly source: string
  /** What is wrong, and the fields it is about, the first one leading. Empty where all is well. */
  readonly check: (lineage: Lineage) => readonly Remark[]
}

export interface Remark {
  readonly message: string
  readonly paths: readonly [StagePath, ...StagePath[]]
  readonly severity?: Severity
}

/** The findings of a rule, each at the place its leading field was written. */
export function findingsOf(rule: Rule, lineage: Lineage): Finding[] {
  return rule.check(lineage).map(({ message, paths, severity }) => ({
    rule: rule.name,
    severity: severity ?? rule.severity,
    message,
    where: placeOf(lineage.side, paths),
    paths: namesOf(paths, lineage),
    hint: rule.hint,
  }))
}

/** Fields by their own names, then by those that the scripts of both sides know them under. */
function namesOf(paths: readonly StagePath[], { side, parent }: Lineage): string[] {
  const flags = [side, parent].flatMap((each) => paths.flatMap((path) => each?.flagNames?.get(path) ?? []))
  const kept = paths.flatMap((path) => /^upstream\.(?:launch\.(?:env|option)\.)?(.+)$/.exec(path)?.[1] ?? [])
  return [...new Set([...paths, ...flags, ...kept])]
}

function placeOf({ origins }: StageSide, paths: readonly StagePath[]): Finding['where'] {
  for (const path of paths) {
    const { file, line, column } = origins.get(path) ?? {}
    if (file !== undefined && line !== undefined) return { file, line, column: column ?? 1 }
  }
  return { path: paths[0] ?? '' }
}
