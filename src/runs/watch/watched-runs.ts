import { readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { UserError } from '../../domain/errors.ts'
import { keepSummary, keptSummary } from '../../store/kept-summary.ts'
import { filesOf, findRun, openRun, type Run } from '../../store/runs.ts'
import type { RunsWorld } from '../world.ts'
import { RunGroups } from './groups.ts'
import { RunWatch } from './run-watch.ts'
import { isLive, type RunSummary } from './summary.ts'

/** Columns of runs nobody looks at are let go of beyond this. */
const mostBytes = 512 * 1024 * 1024
const mostWatches = 64
/** How long one pass over changed runs may take before the list is given out as it is. */
const patienceMs = 500

interface Listed {
  readonly mark: string
  readonly summary: RunSummary
}

export interface RunList {
  readonly runs: readonly RunSummary[]
  readonly pending: number
  readonly groups: Readonly<Record<string, string>>
}

/** Every run under a folder, looked at when asked. A run whose files have not changed is not read again. */
export class WatchedRuns {
  readonly #world: RunsWorld
  readonly #watches = new Map<string, RunWatch>()
  readonly #listed = new Map<string, Listed>()
  readonly #runs = new Map<string, Run>()
  readonly #groups: RunGroups
  #pass: Promise<void> | undefined

  constructor(world: RunsWorld) {
    this.#world = world
    this.#groups = new RunGroups(world.runsFolder)
  }

  /** The watch of a run, brought up to date. Raises UserErrors RUN_UNKNOWN, RUN_AMBIGUOUS and RUN_INVALID. */
  async watch(address: string): Promise<RunWatch> {
    const known = this.#watches.get(address)
    const watch = known && isThere(known.run) ? known : this.#watchOf(findRun(this.#world.runsFolder, address))
    this.#watches.delete(watch.run.id)
    this.#watches.set(watch.run.id, watch)
    await watch.update()
    this.#letGo(watch)
    return watch
  }

  /**
   * Summaries by age, newest first, and the chain of those that belong to one. `pending` counts runs whose state is not known yet: they
   * come in a later list.
   */
  async list(): Promise<RunList> {
    const ids = this.#ids()
    this.#pass ??= this.#lookAt(ids).finally(() => {
      this.#pass = undefined
    })
    await Promise.race([this.#pass, new Promise((resolve) => setTimeout(resolve, patienceMs))])
    const runs = ids.flatMap((id) => this.#listed.get(id)?.summary ?? [])
    return {
      runs: runs.sort((a, b) => (a.createdAt < b.createdAt ? 1 : -1)),
      pending: ids.length - runs.length,
      groups: this.#groups.list(),
    }
  }

  #ids(): string[] {
    try {
      const names = readdirSync(this.#world.runsFolder, { withFileTypes: true })
      return names.flatMap((entry) => (entry.isDirectory() && /^\d{8}-\d{6}-/.test(entry.name) ? [entry.name] : [])).reverse()
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return []
      throw cause
    }
  }

  async #lookAt(ids: readonly string[]): Promise<void> {
    for (const id of ids) {
      const run = this.#runOf(id)
      if (!run) continue
      const mark = markOf(run)
      const known = this.#listed.get(id)
      if (known?.mark === mark && !isLive(known.summary.standing)) continue
      const kept = keptSummary(run.folder, mark) as RunSummary | undefined
      if (kept) {
        this.#listed.set(id, { mark, summary: kept })
        continue
      }
      const watch = this.#watches.get(id) ?? new RunWatch(run, this.#world)
      await watch.update().catch((cause: unknown) => {
        // A run of a newer format is listed by what its folder says.
        if (!(cause instanceof UserError)) throw cause
      })
      const summary = watch.summary()
      this.#listed.set(id, { mark, summary })
      // What still trains is read on from where it is; the rest is read again when somebody opens it.
      if (isLive(summary.standing)) this.#watches.set(id, watch)
      else if (summary.standing !== 'gone') keepSummary(run.folder, mark, summary)
      await new Promise(setImmediate)
    }
  }

  #runOf(id: string): Run | undefined {
    const known = this.#runs.get(id)
    if (known) return known
    try {
      const run = openRun(join(this.#world.runsFolder, id))
      this.#runs.set(id, run)
      return run
    } catch {
      return undefined
    }
  }

  #watchOf(run: Run): RunWatch {
    const known = this.#watches.get(run.id)
    return known && isThere(known.run) ? known : new RunWatch(run, this.#world)
  }

  /** The ones looked at longest ago go first; the one just asked for stays. */
  #letGo(current: RunWatch): void {
    const bytes = () => [...this.#watches.values()].reduce((sum, { record }) => sum + record.columns.bytes, 0)
    for (const [id, watch] of this.#watches) {
      if (this.#watches.size <= mostWatches && bytes() <= mostBytes) return
      if (watch !== current) this.#watches.delete(id)
    }
  }
}

function isThere(run: Run): boolean {
  return statSync(filesOf(run.folder).identity, { throwIfNoEntry: false }) !== undefined
}

/**
 * Changes whenever a journal of a run does. Journals only grow; the inode and the time of its change tell one that was put in its place with
 * the same size and time.
 */
function markOf(run: Run): string {
  const files = filesOf(run.folder)
  return [files.trainer, files.supervisor]
    .map((path) => statSync(path, { throwIfNoEntry: false }))
    .map((found) => (found ? `${found.size} ${found.mtimeMs} ${found.ctimeMs} ${found.ino}` : '-'))
    .join(' ')
}
