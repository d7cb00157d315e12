import { stageFields, valueAt } from '../stage/fields.ts'
import type { FieldMeta, Group, Impact } from '../stage/metadata.ts'
import type { Origin, StageSide } from '../stage/origin.ts'
import type { StagePath } from '../stage/schema.ts'
import { type Comparison, isRecord, missingFrom, sameValue } from './equality.ts'

/** A setting as both sides have it. `before` or `after` is absent where a side does not have the setting at all. */
export interface Compared {
  readonly path: StagePath
  readonly group: Group
  readonly before?: unknown
  readonly after?: unknown
  readonly unit?: string
  readonly impact: Impact
  readonly origin: { readonly before: Origin; readonly after: Origin }
}

/** A setting whose value differs. */
export interface Change extends Compared {
  /** After divided by before, for numbers that multiply. */
  readonly ratio?: number
  /** After minus before in the field's unit, for numbers that add. */
  readonly delta?: number
  /** What a set gained and lost. */
  readonly added?: readonly unknown[]
  readonly removed?: readonly unknown[]
  readonly why?: string
  /** Neither side chose the value: the default of upstream's trainer changed between these versions. */
  readonly defaultChanged?: { readonly from: string; readonly to: string }
  /** Upstream's names for it, where the versions name it differently. */
  readonly renamed?: Renaming
}

export interface Renaming {
  readonly path: StagePath
  readonly group: Group
  readonly before: string
  readonly after: string
}

/** The stage's own name tells the sides apart; it is no setting. */
const identity: StagePath = 'name'

/** A setting of both sides with what is known of its field. */
export interface SettingPair {
  readonly compared: Compared
  readonly meta: FieldMeta
  readonly as: Comparison
}

/** Every setting of two sides, in the order of the schema; records are compared name by name. */
export function comparedSettings(a: StageSide, b: StageSide): SettingPair[] {
  return [...stageFields().values()]
    .filter(({ path }) => path !== identity)
    .flatMap((field) => {
      const [before, after] = [valueAt(a.stage, field.path), valueAt(b.stage, field.path)]
      const shared = { group: field.group, impact: field.impact, ...(field.unit ? { unit: field.unit } : {}) }
      const inside = isRecord(before) && isRecord(after)
      const pairs = inside ? recordPairs(field.path, before, after) : [{ path: field.path, before, after }]
      return pairs.map((pair) => ({
        compared: { ...shared, ...pair, origin: originsOf(pair.path, field.path, a, b) },
        meta: field,
        as: inside ? 'entry' : field.kind,
      }))
    })
}

function recordPairs(path: StagePath, before: Record<string, unknown>, after: Record<string, unknown>) {
  const names = [...new Set([...Object.keys(before), ...Object.keys(after)])]
  return names.map((name) => ({
    path: `${path}.${name}`,
    ...(Object.hasOwn(before, name) ? { before: before[name] } : {}),
    ...(Object.hasOwn(after, name) ? { after: after[name] } : {}),
  }))
}

/** Origins of a setting; of the whole record where its entries have none of their own. */
function originsOf(path: StagePath, field: StagePath, a: StageSide, b: StageSide): Compared['origin'] {
  const of = ({ origins }: StageSide) => origins.get(path) ?? origins.get(field) ?? { layer: 'schema default' as const }
  return { before: of(a), after: of(b) }
}

/** The change between two values of a setting; undefined where they mean the same. */
export function changeOf({ compared, meta, as }: SettingPair, a: StageSide, b: StageSide): Change | undefined {
  const { before, after } = compared
  if (sameValue(before, after, as)) return undefined
  const renamed = renamingOf(compared, a, b)
  const defaultChanged = defaultChange(compared, a, b)
  return {
    ...compared,
    ...measured(before, after, as),
    ...(meta.why ? { why: meta.why } : {}),
    ...(renamed ? { renamed } : {}),
    ...(defaultChanged ? { defaultChanged } : {}),
  }
}

function measured(before: unknown, after: unknown, kind: Comparison): Pick<Change, 'ratio' | 'delta' | 'added' | 'removed'> {
  if (typeof before === 'number' && typeof after === 'number') {
    if (kind === 'multiplicative' && before !== 0 && after !== 0) return { ratio: withoutNoise(after / before) }
    return kind === 'multiplicative' || kind === 'additive' ? { delta: withoutNoise(after - before) } : {}
  }
  if (kind === 'set' && Array.isArray(before) && Array.isArray(after)) {
    return { added: missingFrom(after, before), removed: missingFrom(before, after) }
  }
  return {}
}

/** 0.1 + 0.2 is 0.3: twelve digits are more than any setting has. */
export function withoutNoise(value: number): number {
  return Number(value.toPrecision(12))
}

/** How upstream's two versions name a setting; undefined where the name stayed or a side has none. */
export function renamingOf({ path, group }: Compared, a: StageSide, b: StageSide): Renaming | undefined {
  const [before, after] = [a.flagNames?.get(path), b.flagNames?.get(path)]
  return before === undefined || after === undefined || before === after ? undefined : { path, group, before, after }
}

function defaultChange({ origin }: Compared, a: StageSide, b: StageSide): Change['defaultChanged'] {
  const byDefault = origin.before.layer === 'trainer default' && origin.after.layer === 'trainer default'
  if (!byDefault || a.trainerVersion === undefined || b.trainerVersion === undefined || a.trainerVersion === b.trainerVersion)
    return undefined
  return { from: a.trainerVersion, to: b.trainerVersion }
}

/** Whether nobody chose the value: a default of ours or of upstream's trainer. */
export function isDefault({ layer }: Origin): boolean {
  return layer === 'schema default' || layer === 'trainer default'
}
