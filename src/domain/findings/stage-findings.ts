import type { Finding, StageSide } from '../stage/origin.ts'
import { handOffRules } from './hand-off-rules.ts'
import { nameRules } from './name-rules.ts'
import { findingsOf, type Rule } from './rule.ts'
import { singleStageRules } from './single-stage-rules.ts'
import { areTwins, twinFindings } from './twin-rules.ts'

/** Every rule over stages, in the order findings are shown. */
export const stageRules: readonly Rule[] = [...singleStageRules, ...nameRules, ...handOffRules]

/**
 * What a person should look at in a stage, and in the step from its parent where there is one; defaults are nobody’s parent, and twins for two
 * kinds of hardware should not differ.
 * Findings made while reading it are not repeated.
 */
export function stageFindings(side: StageSide, before?: StageSide): Finding[] {
  const parent = before && /^defaults(?::|$)/.test(before.label) ? undefined : before
  if (parent && areTwins(side, parent))
    return [...stageRules.flatMap((rule) => findingsOf(rule, { side, parent: undefined })), ...twinFindings(side, parent)]
  return stageRules.flatMap((rule) => findingsOf(rule, { side, parent }))
}
