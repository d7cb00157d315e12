import { statSync } from 'node:fs'
import type { ProcessIdentity } from '../../domain/protocol.ts'
import { isAlive, isElsewhere } from '../../engines/process-identity.ts'
import { type Sweep, sweepFiles } from '../../store/sweeps.ts'
import { supervise } from '../supervise.ts'
import { isSilent } from '../supervisor-lock.ts'
import type { RunsWorld } from '../world.ts'

/*
 * Who drives a sweep, and the world it trains in.
 */

/** Whether the holder of a sweep's lock still drives it. One of another host is known by its lock alone, which it keeps fresh. */
export function drivesOn({ folder }: Sweep, holder: ProcessIdentity): boolean {
  if (!isElsewhere(holder)) return isAlive(holder)
  const touched = statSync(sweepFiles(folder).lock, { throwIfNoEntry: false })?.mtimeMs ?? 0
  return !isSilent(touched / 1000)
}

/** Whether any stage of a sweep is trained by one process and may be forked. */
export function usesPool({ identity }: Sweep): boolean {
  return (
    identity.sweep.warmPool &&
    (identity.engine?.kind ?? 'local') === 'local' &&
    identity.stages.some(({ parallel }) => parallel.processes * parallel.nodes === 1)
  )
}

/** The world with supervisors in this process: they need no start of their own. A kill leaves runs to be adopted. */
export function supervising(world: RunsWorld): RunsWorld {
  return {
    ...world,
    startSupervisor: async (folder, attempt) => {
      let isOver = false
      const ending = supervise(folder, { engine: world.engine, python: world.python }, { attempt })
      ending
        .catch(() => undefined)
        .finally(() => {
          isOver = true
        })
      return { hasEnded: () => isOver }
    },
  }
}
