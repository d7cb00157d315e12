import { setTimeout as sleep } from 'node:timers/promises'
import type { SupervisorEvent, TrainerEvent } from '../domain/protocol.ts'
import { supervisorJournal, trainerJournal } from '../store/journal.ts'
import { filesOf, type Run } from '../store/runs.ts'

const pollMs = 100

/** One event of a run, whichever journal it stands in. */
export interface RunEvent {
  readonly attempt: number
  readonly event: TrainerEvent | SupervisorEvent
}

/**
 * Every event of a run from its first on, then those to come, until its newest attempt has ended or `signal` aborts. The journal files
 * are the channel: nothing is missed, whoever writes and wherever the reader stands.
 */
export async function* attach(run: Run, options: { signal?: AbortSignal; isOver?: () => Promise<boolean> } = {}): AsyncGenerator<RunEvent> {
  const files = filesOf(run.folder)
  const trainer = trainerJournal(files.trainer)
  const supervisor = supervisorJournal(files.supervisor)
  const started = new Set<number>()
  const finished = new Set<number>()
  while (!options.signal?.aborted) {
    const ends: SupervisorEvent[] = []
    for (const event of supervisor.next()) {
      if (event.event === 'attempt') started.add(event.attempt)
      if (event.event === 'ended') ends.push(event)
      else yield { attempt: event.attempt, event }
    }
    // An end is told after everything the trainer said in that attempt.
    for (const event of trainer.next()) yield { attempt: event.attempt, event }
    for (const event of ends) {
      finished.add(event.attempt)
      yield { attempt: event.attempt, event }
    }
    const isOver = started.size > 0 && [...started].every((attempt) => finished.has(attempt))
    if (isOver && (options.isOver === undefined || (await options.isOver()))) return
    await sleep(pollMs)
  }
}
