import { UserError } from '../domain/errors.ts'
import { quoted } from './finding.ts'

/** Renames in order; the first that fits is used. */
export type NameMap = readonly Renaming[]

interface Renaming {
  /** The new name, or undefined where the rule does not fit. */
  readonly apply: (name: string) => string | undefined
}

/**
 * `old=new`: a prefix of names and what stands there instead (`module.=` drops it), or `/regex/=replacement` with `$1`.
 * Throws UserError MAP_SYNTAX.
 */
export function parseNameMap(text: string): NameMap[number] {
  const pattern = /^\/(.*)\/=(.*)$/s.exec(text)
  if (pattern !== null) return regexRenaming(text, pattern[1] ?? '', pattern[2] ?? '')
  const at = text.indexOf('=')
  if (at < 0)
    throw new UserError('MAP_SYNTAX', `--map ${text}: expected old=new`, {
      hint: 'for example --map module.= or --map "/^blocks\\.(\\d+)/=layers.$1"',
    })
  const [old, replacement] = [text.slice(0, at), text.slice(at + 1)]
  return { apply: (name) => (name.startsWith(old) ? replacement + name.slice(old.length) : undefined) }
}

function regexRenaming(text: string, source: string, replacement: string): NameMap[number] {
  try {
    const regex = new RegExp(source)
    return { apply: (name) => (regex.test(name) ? name.replace(regex, replacement) : undefined) }
  } catch (cause) {
    throw new UserError('MAP_SYNTAX', `--map ${text}: ${(cause as Error).message}`, {
      hint: 'the part between slashes is a JavaScript regular expression',
      cause,
    })
  }
}

/** The same values under their new names. Throws UserError MAP_COLLISION where two would share one. */
export function mappedNames<Value>(values: ReadonlyMap<string, Value>, map: NameMap): ReadonlyMap<string, Value> {
  if (map.length === 0) return values
  const mapped = new Map<string, Value>()
  for (const [name, value] of values) {
    const renamed = map.map(({ apply }) => apply(name)).find((found) => found !== undefined) ?? name
    if (mapped.has(renamed))
      throw new UserError('MAP_COLLISION', `--map: two tensors would be called ${quoted(renamed)}`, { hint: 'make the map more specific' })
    mapped.set(renamed, value)
  }
  return mapped
}
