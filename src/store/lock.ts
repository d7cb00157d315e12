import { closeSync, linkSync, openSync, readFileSync, renameSync, rmSync, writeSync } from 'node:fs'
import { type ProcessIdentity, processIdentity } from '../domain/protocol.ts'

/** A lock that its holder gives back; it also ends with the holder's process. */
export interface Lock {
  release(): void
}

/**
 * Takes the lock at a path, or returns who holds it. A lock whose holder is gone is taken over: it is moved aside first, so
 * that of several that see it stale only one gets it.
 */
export function takeLock(path: string, own: ProcessIdentity, isAlive: (holder: ProcessIdentity) => boolean): Lock | ProcessIdentity {
  const mine = `${path}.${own.pid}`
  const file = openSync(mine, 'w', 0o600)
  writeSync(file, JSON.stringify(own))
  closeSync(file)
  try {
    for (;;) {
      try {
        linkSync(mine, path)
        return { release: () => releaseLock(path, own) }
      } catch (cause) {
        if ((cause as NodeJS.ErrnoException).code !== 'EEXIST') throw cause
      }
      const holder = lockHolder(path)
      if (holder && isAlive(holder)) return holder
      moveStaleAside(path, holder, own, isAlive)
    }
  } finally {
    rmSync(mine, { force: true })
  }
}

/** Who holds a lock; undefined where nobody does or the file cannot be read. */
export function lockHolder(path: string): ProcessIdentity | undefined {
  try {
    return processIdentity.parse(JSON.parse(readFileSync(path, 'utf8')))
  } catch {
    return undefined
  }
}

function moveStaleAside(
  path: string,
  holder: ProcessIdentity | undefined,
  own: ProcessIdentity,
  isAlive: (holder: ProcessIdentity) => boolean,
): void {
  const aside = `${path}.stale.${own.pid}`
  try {
    renameSync(path, aside)
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return
    throw cause
  }
  const moved = lockHolder(aside)
  if (moved && moved.startTime !== holder?.startTime && isAlive(moved)) {
    try {
      linkSync(aside, path)
    } catch {
      // Somebody else holds it by now; the next look decides.
    }
  }
  rmSync(aside, { force: true })
}

function releaseLock(path: string, own: ProcessIdentity): void {
  const holder = lockHolder(path)
  if (holder?.pid === own.pid && holder.startTime === own.startTime) rmSync(path, { force: true })
}
