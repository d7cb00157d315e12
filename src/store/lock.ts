import { linkSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { type ProcessIdentity, processIdentity } from '../domain/protocol.ts'
import { readIfThere } from './files.ts'

/** A lock that its holder gives back; it also ends with the holder's process. */
export interface Lock {
  release(): void
}

/**
 * Takes the lock at a path, or returns who holds it. Files appear whole or not at all, by a link. A lock whose holder is gone may be
 * replaced only by whoever made the claim on that very holder, a file of its own that one process can make; a claimant that dies
 * leaves a claim that is claimed in turn. So no moment is open to two.
 */
export function takeLock(path: string, own: ProcessIdentity, isAlive: (holder: ProcessIdentity) => boolean): Lock | ProcessIdentity {
  const mine = `${path}.${own.pid}`
  writeFileSync(mine, JSON.stringify(own), { mode: 0o600 })
  try {
    for (;;) {
      if (isLinked(mine, path)) return lockHeldBy(path, own)
      const chain = holders(path, own.host)
      const last = chain.at(-1)
      if (last === undefined) continue
      if (isAlive(last)) return last
      const claim = claimOn(path, last)
      if (!isLinked(mine, claim)) continue
      // Whoever was delayed finds another holder here; a holder that is gone never comes back.
      if (keyOf([...chain, own]) === keyOf(holders(path, own.host))) {
        renameSync(mine, path)
        for (const gone of chain) rmSync(claimOn(path, gone), { force: true })
        return lockHeldBy(path, own)
      }
      rmSync(claim, { force: true })
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

function lockHeldBy(path: string, own: ProcessIdentity): Lock {
  return {
    release: () => {
      const holder = lockHolder(path)
      if (holder && keyOf([holder]) === keyOf([own])) rmSync(path, { force: true })
    },
  }
}

/** Who stands in the file, whoever claimed it from that one, and so on. */
function holders(path: string, host: string): ProcessIdentity[] {
  const chain: ProcessIdentity[] = []
  for (let at = path; ; ) {
    const holder = read(at, host)
    if (!holder) return chain
    chain.push(holder)
    at = claimOn(path, holder)
  }
}

function read(path: string, host: string): ProcessIdentity | undefined {
  const text = readIfThere(path)
  if (text === undefined) return undefined
  try {
    return processIdentity.parse(JSON.parse(text))
  } catch {
    // Only a power cut leaves a file that cannot be read; no process of that time lives.
    return { pid: 1, startTime: 'unreadable', host }
  }
}

function claimOn(path: string, { pid, startTime }: ProcessIdentity): string {
  return `${path}.after-${pid}-${startTime.replaceAll(/\W/g, '')}`
}

function keyOf(chain: readonly ProcessIdentity[]): string {
  return chain.map(({ pid, startTime, host }) => `${pid} ${startTime} ${host}`).join('\n')
}

function isLinked(from: string, to: string): boolean {
  try {
    linkSync(from, to)
    return true
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'EEXIST') return false
    throw cause
  }
}
