import { statSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import type { ProcessIdentity } from '../domain/protocol.ts'
import { identityOf, isAlive, isElsewhere } from '../engines/process-identity.ts'
import { type Lock, lockHolder, takeLock } from '../store/lock.ts'
import { filesOf, type Run, readState } from '../store/runs.ts'

/*
 * Who supervises a run: one process at a time, the holder of its lock.
 */

const pollMs = 250
/** A trainer says something at least each ten seconds. One of another host that is silent this long is taken for lost. */
const silenceSeconds = 300

/** Who this process is. */
export function ownIdentity(): ProcessIdentity {
  const own = identityOf(process.pid)
  if (!own) throw new Error('this process has no entry under /proc')
  return own
}

/** The lock of a run, waited for; undefined where another process keeps it. */
export async function lockOf(run: Run, own: ProcessIdentity, patienceMs: number): Promise<Lock | undefined> {
  const until = Date.now() + patienceMs
  for (;;) {
    const taken = takeLock(filesOf(run.folder).lock, own, (holder) => holdsOn(run, holder))
    if ('release' in taken) return taken
    if (Date.now() >= until) return undefined
    await sleep(pollMs)
  }
}

/** Whether the holder of a run's lock still lives; on another host that is told by what the run says alone. */
function holdsOn(run: Run, holder: ProcessIdentity): boolean {
  return isElsewhere(holder) ? !isSilent(Math.max(readState(run).lastHeardAt ?? 0, freshenedAt(run))) : isAlive(holder)
}

/** When the holder of a run's lock last touched it, in seconds since 1970. */
function freshenedAt(run: Run): number {
  return (statSync(filesOf(run.folder).lock, { throwIfNoEntry: false })?.mtimeMs ?? 0) / 1000
}

/** Whether nothing was heard of a run for so long that it is taken for lost. */
export function isSilent(lastHeardAt: number | undefined): boolean {
  return Date.now() / 1000 - (lastHeardAt ?? 0) > silenceSeconds
}

/** Whether some process supervises a run now. */
export function isSupervised(run: Run): boolean {
  const holder = lockHolder(filesOf(run.folder).lock)
  return holder !== undefined && holdsOn(run, holder)
}
