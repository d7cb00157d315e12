import { isRecord } from './equality.ts'

/** One operation of a JSON patch (RFC 6902). */
export type PatchOperation =
  | { readonly op: 'add' | 'replace'; readonly path: string; readonly value: unknown }
  | { readonly op: 'remove'; readonly path: string }

/** The operations that turn one JSON value into another. Lists are replaced whole. */
export function jsonPatch(before: unknown, after: unknown, at = ''): PatchOperation[] {
  if (!isRecord(before) || !isRecord(after)) return identical(before, after) ? [] : [{ op: 'replace', path: at, value: after }]
  const removed = Object.keys(before).filter((name) => !Object.hasOwn(after, name))
  const changes = Object.entries(after).flatMap(([name, value]): PatchOperation[] => {
    const path = `${at}/${escaped(name)}`
    return Object.hasOwn(before, name) ? jsonPatch(before[name], value, path) : [{ op: 'add', path, value }]
  })
  return [...removed.map((name) => ({ op: 'remove', path: `${at}/${escaped(name)}` }) as const), ...changes]
}

/** A name as a part of a JSON pointer (RFC 6901). */
function escaped(name: string): string {
  return name.replaceAll('~', '~0').replaceAll('/', '~1')
}

function identical(a: unknown, b: unknown): boolean {
  if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((item, place) => identical(item, b[place]))
  if (isRecord(a) && isRecord(b)) {
    const names = Object.keys(a)
    return names.length === Object.keys(b).length && names.every((name) => Object.hasOwn(b, name) && identical(a[name], b[name]))
  }
  return a === b
}
