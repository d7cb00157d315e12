import type { Place } from './problems.ts'

export type Located = LocatedScalar | LocatedList | LocatedRecord

export interface LocatedScalar {
  readonly kind: 'scalar'
  readonly value: string | number | boolean | null
  readonly place: Place
}

export interface LocatedList {
  readonly kind: 'list'
  readonly items: readonly Located[]
  readonly place: Place
}

export interface LocatedEntry {
  readonly value: Located
  /** Where the key stands. */
  readonly place: Place
}

export interface LocatedRecord {
  readonly kind: 'record'
  readonly entries: ReadonlyMap<string, LocatedEntry>
  readonly place: Place
}

/** The plain value without places. */
export function plainValue(node: Located): unknown {
  switch (node.kind) {
    case 'scalar':
      return node.value
    case 'list':
      return node.items.map(plainValue)
    case 'record':
      return Object.fromEntries([...node.entries].map(([name, { value }]) => [name, plainValue(value)]))
    default:
      return node satisfies never
  }
}

/** Place of the value at a path inside a node; of the deepest node on the way where the path ends in nothing. */
export function placeInside(node: Located, path: readonly PropertyKey[]): Place {
  const [step, ...rest] = path
  if (step === undefined || node.kind === 'scalar') return node.place
  const next = node.kind === 'list' ? node.items[Number(step)] : node.entries.get(String(step))?.value
  return next ? placeInside(next, rest) : node.place
}

/** A plain value as if it stood at one place: that of an option or a trial. Anything that is no JSON counts as its text. */
export function locatedOf(value: unknown, place: Place): Located {
  if (Array.isArray(value)) return { kind: 'list', place, items: value.map((item) => locatedOf(item, place)) }
  if (value !== null && typeof value === 'object') {
    return {
      kind: 'record',
      place,
      entries: new Map(Object.entries(value).map(([name, inner]) => [name, { place, value: locatedOf(inner, place) }])),
    }
  }
  const isScalar = value === null || ['string', 'number', 'boolean'].includes(typeof value)
  return { kind: 'scalar', place, value: isScalar ? (value as LocatedScalar['value']) : String(value) }
}

/** Sections around a value, one per name of its path. */
export function nestedAt([name = '', ...rest]: readonly string[], value: Located): LocatedRecord {
  const { place } = value
  return { kind: 'record', place, entries: new Map([[name, { place, value: rest.length === 0 ? value : nestedAt(rest, value) }]]) }
}
