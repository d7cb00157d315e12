import { readFileSync } from 'node:fs'
import { hostname } from 'node:os'
import type { ProcessIdentity } from '../domain/protocol.ts'

/** Who a process is: its number alone may belong to another one later. Undefined where it is gone or a zombie. */
export function identityOf(pid: number): ProcessIdentity | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    const [state, startTime] = [fields[0], fields[19]]
    return state === 'Z' || state === 'X' || startTime === undefined ? undefined : { pid, startTime, host: hostname() }
  } catch {
    return undefined
  }
}

/** Whether the very process still lives, on this machine. */
export function isAlive(identity: ProcessIdentity): boolean {
  return identity.host === hostname() && identityOf(identity.pid)?.startTime === identity.startTime
}
