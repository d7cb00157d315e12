import type { FieldKind } from '../stage/metadata.ts'

/**
 * Whether two values of a field mean the same: numbers by value however they are written, sets without order,
 * places without a trailing slash. An absent value equals nothing but another absent one: it is not null.
 */
export function sameValue(a: unknown, b: unknown, kind: FieldKind): boolean {
  if (Object.is(a, b)) return true
  if (Array.isArray(a) && Array.isArray(b)) return kind === 'set' ? sameSet(a, b) : sameSequence(a, b)
  if (isRecord(a) && isRecord(b)) return sameRecord(a, b, kind)
  const [left, right] = [numberOf(a), numberOf(b)]
  if (left !== undefined && right !== undefined) return left === right
  return kind === 'path' && typeof a === 'string' && typeof b === 'string' && plainPath(a) === plainPath(b)
}

function sameSequence(a: readonly unknown[], b: readonly unknown[]): boolean {
  return a.length === b.length && a.every((item, place) => sameValue(item, b[place], 'sequence'))
}

function sameSet(a: readonly unknown[], b: readonly unknown[]): boolean {
  return missingFrom(a, b).length === 0 && missingFrom(b, a).length === 0
}

/** Members of one set that another does not have. */
export function missingFrom(members: readonly unknown[], other: readonly unknown[]): unknown[] {
  return members.filter((member) => !other.some((candidate) => sameValue(member, candidate, 'text')))
}

function sameRecord(a: Record<string, unknown>, b: Record<string, unknown>, kind: FieldKind): boolean {
  const names = Object.keys(a)
  return names.length === Object.keys(b).length && names.every((name) => Object.hasOwn(b, name) && sameValue(a[name], b[name], kind))
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
