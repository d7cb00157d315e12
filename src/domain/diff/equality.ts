import type { FieldKind } from '../stage/metadata.ts'

/** How two values compare: as their field says, or as an entry of a record, where upstream's flags may be text. */
export type Comparison = FieldKind | 'entry'

/**
 * Whether two values mean the same: numbers by value however they are written, sets without order,
 * places without a trailing slash. An absent value equals nothing but another absent one: it is not null.
 */
export function sameValue(a: unknown, b: unknown, as: Comparison): boolean {
  if (a === b || Object.is(a, b)) return true
  if (Array.isArray(a) && Array.isArray(b)) return as === 'set' ? sameSet(a, b) : sameSequence(a, b, as === 'entry' ? 'entry' : 'sequence')
  if (isRecord(a) && isRecord(b)) return sameRecord(a, b, as === 'set' ? 'entry' : as)
  if (as === 'entry') return numberOf(a) !== undefined && numberOf(a) === numberOf(b)
  return as === 'path' && typeof a === 'string' && typeof b === 'string' && plainPath(a) === plainPath(b)
}

function sameSequence(a: readonly unknown[], b: readonly unknown[], as: Comparison): boolean {
  return a.length === b.length && a.every((item, place) => sameValue(item, b[place], as))
}

function sameSet(a: readonly unknown[], b: readonly unknown[]): boolean {
  return missingFrom(a, b).length === 0 && missingFrom(b, a).length === 0
}

/** Members of one set that another does not have. */
export function missingFrom(members: readonly unknown[], other: readonly unknown[]): unknown[] {
  return members.filter((member) => !other.some((candidate) => sameValue(member, candidate, 'text')))
}

function sameRecord(a: Record<string, unknown>, b: Record<string, unknown>, as: Comparison): boolean {
  const names = Object.keys(a)
  return names.length === Object.keys(b).length && names.every((name) => Object.hasOwn(b, name) && sameValue(a[name], b[name], as))
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return value !== null && typeof value === 'object' && !Array.isArray(value)
}

/** The number a value is or writes; undefined for anything else. Upstream's flags arrive as text. */
function numberOf(value: unknown): number | undefined {
  if (typeof value === 'number') return value
  if (typeof value !== 'string' || !/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(value)) return undefined
  return Number(value)
}

function plainPath(path: string): string {
  return path.replace(/^(\.\/)+(?=.)/, '').replace(/(?<=.)\/+$/, '')
}
