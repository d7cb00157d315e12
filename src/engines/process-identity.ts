import { readdirSync, readFileSync } from 'node:fs'
import { hostname } from 'node:os'
import type { ProcessIdentity } from '../domain/protocol.ts'

/** Who a process is: its number alone may belong to another one later. Undefined where it is gone, or a zombie unless those count. */
export function identityOf(pid: number, options: { zombies?: boolean } = {}): ProcessIdentity | undefined {
  try {
    const fields = statusOf(pid)
    const [state = 'X', startTime] = [fields[0], fields[19]]
    const isGone = options.zombies ? state === 'X' : 'ZX'.includes(state)
    return isGone || startTime === undefined ? undefined : { pid, startTime, host: hostname() }
  } catch {
    return undefined
  }
}

/** Fields of `/proc/PID/stat` from the third on: state, parent, group, session… The second, a name, may hold anything. */
function statusOf(pid: number): string[] {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  return stat.slice(stat.lastIndexOf(')') + 2).split(' ')
}

/** Whether a process leads its session. A fork of one that does has the same command line until it becomes another program. */
export function leadsSession({ pid }: ProcessIdentity): boolean {
  try {
    return Number(statusOf(pid)[3]) === pid
  } catch {
    return false
  }
}

/** Whether the very process still lives, on this machine. */
export function isAlive(identity: ProcessIdentity): boolean {
  return !isElsewhere(identity) && identityOf(identity.pid)?.startTime === identity.startTime
}

/** Whether a process is one of another host, whose life cannot be seen from here. */
export function isElsewhere({ host }: ProcessIdentity): boolean {
  return host !== hostname()
}

/** Processes of this machine that live and whose command line, word for word, satisfies a condition. */
export function processesWhere(matches: (words: readonly string[]) => boolean): ProcessIdentity[] {
  const numbers = readdirSync('/proc').filter((name) => /^\d+$/.test(name))
  return numbers.flatMap((name) => (matches(commandLine(name)) ? (identityOf(Number(name)) ?? []) : []))
}

function commandLine(pid: string): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')
  } catch {
    // It ended while we looked.
    return []
  }
}
