import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'

const idForm = /^\d{8}-\d{6}-[a-z0-9._-]+-[0-9a-f]{4}$/i

/** The beginning of an id: date and time to the second, sortable as text. */
export function stamp(now: Date): string {
  return now.toISOString().slice(0, 19).replaceAll(/[-:]/g, '').replace('T', '-')
}

/** Names of what lies in a folder under an id, with its identity written. */
export function idsIn(folder: string, identityName: string): string[] {
  if (!existsSync(folder)) return []
  return readdirSync(folder).filter((name) => idForm.test(name) && existsSync(join(folder, name, identityName)))
}

interface Identified {
  readonly id: string
  readonly identity: { readonly createdAt: string }
}

/** Opens what lies under names of a folder, oldest first. What cannot be opened is left alone. */
export function openAll<Opened extends Identified>(folder: string, names: readonly string[], open: (folder: string) => Opened): Opened[] {
  const opened = names.flatMap((name) => {
    try {
      return [open(join(folder, name))]
    } catch {
      return []
    }
  })
  return opened.sort((a, b) => (`${a.identity.createdAt} ${a.id}` < `${b.identity.createdAt} ${b.id}` ? -1 : 1))
}
