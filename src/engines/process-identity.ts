import { readdirSync, readFileSync } from 'node:fs'
import { hostname } from 'node:os'
import type { ProcessIdentity } from '../domain/protocol.ts'

/** Clock ticks of `/proc` in a second, the same on every Linux. */
const ticksPerSecond = 100

/** Who a process is: its number alone may belong to another one later. Undefined where it is gone, or a zombie unless those count. */
export function identityOf(pid: number, options: { zombies?: boolean } = {}): ProcessIdentity | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    const [state = 'X', startTime] = [fields[0], fields[19]]
    const isGone = options.zombies ? state === 'X' : 'ZX'.includes(state)
    return isGone || startTime === undefined ? undefined : { pid, startTime, host: hostname() }
  } catch {
    return undefined
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

/** When a process started, in seconds since 1970. */
export function startedAt({ startTime }: ProcessIdentity): number {
  const uptimeSeconds = Number(readFileSync('/proc/uptime', 'utf8').split(' ')[0])
  return Date.now() / 1000 - uptimeSeconds + Number(startTime) / ticksPerSecond
}

/** The process whose command line holds these words one after another; undefined where there is none. */
export function processWith(words: readonly string[]): ProcessIdentity | undefined {
  const wanted = `\0${words.join('\0')}\0`
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue
    try {
      if (readFileSync(`/proc/${name}/cmdline`, 'utf8').includes(wanted)) return identityOf(Number(name))
    } catch {
      // It ended while we looked.
    }
  }
  return undefined
}
