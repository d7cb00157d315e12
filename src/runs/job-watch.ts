import { utimesSync } from 'node:fs'
import type { Attempt } from '../domain/run/state.ts'
import type { Engine, JobPlace, JobStatus, QueuedJob } from '../engines/engine.ts'
import type { SupervisorJournal } from '../store/journal.ts'

const freshenMs = 30_000

/** What a supervisor does while a job stands in a queue: it says so in the journal, and keeps its lock fresh for those who see only files. */
export class JobWatch {
  readonly #place: JobPlace
  readonly #lock: string
  readonly #engine: Engine
  readonly #journal: SupervisorJournal
  #last: string | undefined
  #hastened = 0
  #freshenedAt = performance.now()

  constructor(place: JobPlace, lock: string, engine: Engine, journal: SupervisorJournal, waited: Attempt['waited']) {
    this.#place = place
    this.#lock = lock
    this.#engine = engine
    this.#journal = journal
    this.#last = waited && keyOf(waited)
  }

  async see(status: JobStatus): Promise<void> {
    this.#freshen()
    if (status.state === 'running') this.#last = undefined
    if (status.state !== 'queued') return
    const { why, eligibleAt, restarts } = status
    if (keyOf(status) !== this.#last) this.#journal.append(this.#place.attempt, { event: 'waiting', why, eligibleAt, restarts })
    this.#last = keyOf(status)
    // A job that comes back waits longer than it must.
    if (eligibleAt === null || restarts <= this.#hastened) return
    this.#hastened = restarts
    await this.#engine.hasten(this.#place).catch(() => undefined)
  }

  #freshen(): void {
    if (performance.now() - this.#freshenedAt < freshenMs) return
    this.#freshenedAt = performance.now()
    const now = new Date()
    utimesSync(this.#lock, now, now)
  }
}

function keyOf({ why, eligibleAt, restarts }: Pick<QueuedJob, 'why' | 'eligibleAt' | 'restarts'>): string {
  return `${why} ${eligibleAt} ${restarts}`
}
