/** Letters of the longest name that is not suspicious. */
export const longestName = 1024
const forbiddenWords = new Set(['__proto__', 'constructor', 'prototype'])
/** Found wherever a name of letters, digits, `.`, `_` and `-` that begins with a letter could be dangerous. */
export const dangerousText = /__proto__|"(?:constructor|prototype)"/

/** Why a tensor name is dangerous for a program that uses it as a path or as a key, or undefined. */
export function hostility(name: string): string | undefined {
  if (name === '') return 'it is empty'
  if (name.length > longestName) return `it has ${name.length} letters, more than ${longestName}`
  if (/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u.test(name)) return 'it has control characters'
  if (forbiddenWords.has(name) || name.split('.').some((part) => part === '__proto__')) return 'it names a part of every JavaScript object'
  if (name.startsWith('__') && name.endsWith('__')) return 'names between double underscores belong to the format'
  return pathHostility(name)
}

/** Why a name must not be joined to a folder, or undefined. */
export function pathHostility(name: string): string | undefined {
  if (/^[/\\~]/.test(name) || /^[A-Za-z]:[/\\]/.test(name)) return 'it is an absolute path'
  if (name.split(/[/\\]/).some((part) => part === '..')) return 'it climbs out of its folder'
  return undefined
}
