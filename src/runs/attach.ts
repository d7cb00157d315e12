import { setTimeout as sleep } from 'node:timers/promises'
import { UserError } from '../domain/errors.ts'
import { inOrder, type RunEvent } from '../domain/run/state.ts'
import { FileChanges } from '../store/changes.ts'
import { supervisorJournal, trainerJournal } from '../store/journal.ts'
import { filesOf, type Run } from '../store/runs.ts'
import type { StartedJob } from './job.ts'
import { isGone, type SuperviseWorld, supervise } from './supervise.ts'
import { isSupervised } from './supervisor-lock.ts'

const pollMs = 100
const lookAfterMs = 1000

export interface AttachOptions {
  readonly signal?: AbortSignal
  /** The attempt to follow to its end, where it may not have started yet; the newest one else. */
  readonly fromAttempt?: number
  /** Tells an event as soon as it is written, not with those of the same tenth of a second. */
  readonly isPrompt?: boolean
}

/**
 * Every event of a run from its first on, then those to come, until its newest attempt has ended or `signal` aborts. The journal files
 * are the channel: nothing is missed, whoever writes and wherever the reader stands. Where the supervisor is gone, the end of the
 * attempt is recorded from here. Raises UserError RUN_NOT_STARTED.
 */
export async function* attach(run: Run, world: SuperviseWorld, options: AttachOptions = {}): AsyncGenerator<RunEvent> {
  const files = filesOf(run.folder)
  const [trainer, supervisor] = [trainerJournal(files.trainer), supervisorJournal(files.supervisor)]
  const adoption = new Adoption(run, world)
  const changes = options.isPrompt ? new FileChanges(files.trainer, files.supervisor) : undefined
  let newest = { number: 0, engine: '', handle: null as unknown, hasEnded: false }
  let heardAt = 0
  let lookAt = performance.now() + lookAfterMs
  try {
    while (!options.signal?.aborted) {
      // The supervisor's lines first: an end written there means that the trainer has said everything.
      const told = supervisor.next()
      const events = inOrder(trainer.next(), told)
      yield* events
      heardAt = events.reduce((latest, { event }) => Math.max(latest, event.ts), heardAt)
      for (const event of told) {
        if (event.event === 'attempt') newest = { number: event.attempt, engine: event.engine, handle: event.handle, hasEnded: false }
        if (event.event === 'ended' && event.attempt === newest.number) newest.hasEnded = true
      }
      if (newest.hasEnded && newest.number >= (options.fromAttempt ?? 1)) return
      if (performance.now() > lookAt) {
        lookAt = performance.now() + lookAfterMs
        if (newest.number > 0 && !newest.hasEnded) adoption.look(newest, heardAt)
        if (newest.number < (options.fromAttempt ?? 1) && !isSupervised(run)) throw notStarted(run)
      }
      adoption.check()
      await (changes?.within(pollMs, options.signal) ??
        sleep(pollMs, undefined, options.signal ? { signal: options.signal } : {}).catch(() => undefined))
    }
  } finally {
    changes?.close()
  }
}

/** The end of an attempt recorded from here while its last events are still told: ranks without a launcher may go on for a while. */
class Adoption {
  readonly #run: Run
  readonly #world: SuperviseWorld
  #isLooking = false
  #isGoingOn = false
  #failure: unknown

  constructor(run: Run, world: SuperviseWorld) {
    this.#run = run
    this.#world = world
  }

  /** Begins where the attempt is gone. A cluster may take its time to say so, while events go on. */
  look(attempt: StartedJob, heardAt: number): void {
    if (this.#isLooking || this.#isGoingOn) return
    this.#isLooking = true
    isGone(this.#run, attempt, heardAt, this.#world.engine)
      .then((gone) => {
        if (gone) this.#begin()
      })
      .catch((cause: unknown) => {
        this.#failure = cause
      })
      .finally(() => {
        this.#isLooking = false
      })
  }

  #begin(): void {
    if (this.#isGoingOn) return
    this.#isGoingOn = true
    supervise(this.#run.folder, this.#world, { attempt: undefined })
      .catch((cause: unknown) => {
        this.#failure = cause
      })
      .finally(() => {
        this.#isGoingOn = false
      })
  }

  /** Raises what kept the end from being recorded. */
  check(): void {
    if (this.#failure !== undefined) throw this.#failure
  }
}

function notStarted(run: Run): UserError {
  return new UserError('RUN_NOT_STARTED', `${run.id}: expected a run that has started, got one without an attempt`, {
    hint: `stagewright continue ${run.id}`,
    exitCode: 1,
  })
}
