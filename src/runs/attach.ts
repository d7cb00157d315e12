import { setTimeout as sleep } from 'node:timers/promises'
import { UserError } from '../domain/errors.ts'
import { inOrder, type RunEvent } from '../domain/run/state.ts'
import type { JobHandle } from '../engines/engine.ts'
import { supervisorJournal, trainerJournal } from '../store/journal.ts'
import { filesOf, type Run } from '../store/runs.ts'
import { isSupervised, type SuperviseWorld, supervise } from './supervise.ts'

const pollMs = 100
const lookAfterMs = 1000

export interface AttachOptions {
  readonly signal?: AbortSignal
  /** The attempt to follow to its end, where it may not have started yet; the newest one else. */
  readonly fromAttempt?: number
}

/**
 * Every event of a run from its first on, then those to come, until its newest attempt has ended or `signal` aborts. The journal files
 * are the channel: nothing is missed, whoever writes and wherever the reader stands. Where the supervisor is gone, the end of the
 * attempt is recorded from here. Raises UserError RUN_NOT_STARTED.
 */
export async function* attach(run: Run, world: SuperviseWorld, options: AttachOptions = {}): AsyncGenerator<RunEvent> {
  const files = filesOf(run.folder)
  const [trainer, supervisor] = [trainerJournal(files.trainer), supervisorJournal(files.supervisor)]
  let newest = { number: 0, handle: null as unknown, hasEnded: false }
  let lookAt = performance.now() + lookAfterMs
  while (!options.signal?.aborted) {
    // The supervisor's lines first: an end written there means that the trainer has said everything.
    const told = supervisor.next()
    yield* inOrder(trainer.next(), told)
    for (const event of told) {
      if (event.event === 'attempt') newest = { number: event.attempt, handle: event.handle, hasEnded: false }
      if (event.event === 'ended' && event.attempt === newest.number) newest.hasEnded = true
    }
    if (newest.hasEnded && newest.number >= (options.fromAttempt ?? 1)) return
    if (performance.now() > lookAt) {
      lookAt = performance.now() + lookAfterMs
      if (newest.number > 0 && !newest.hasEnded && isLeft(run, newest, world)) await supervise(run.folder, world, { attempt: undefined })
      if (newest.number < (options.fromAttempt ?? 1) && !isSupervised(run)) throw notStarted(run)
    }
    await sleep(pollMs, undefined, options.signal ? { signal: options.signal } : {}).catch(() => undefined)
  }
}

/** Whether an attempt has ended, or never began, and nobody is there to record it. */
function isLeft(run: Run, { number, handle }: { number: number; handle: unknown }, { engine }: SuperviseWorld): boolean {
  if (handle === null || handle === undefined) return !isSupervised(run)
  return engine.observe(handle as JobHandle, filesOf(run.folder).exit(number)).state === 'ended'
}

function notStarted(run: Run): UserError {
  return new UserError('RUN_NOT_STARTED', `${run.id}: expected a run that has started, got one without an attempt`, {
    hint: `stagewright continue ${run.id}`,
    exitCode: 1,
  })
}
