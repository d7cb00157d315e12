import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { z } from 'zod'
import { type Alert, AlertFold, type AlertsFile } from '../domain/alerts.ts'
import { inOrder } from '../domain/run/state.ts'
import { makeFolder, writeAtomically } from '../store/files.ts'
import { supervisorJournal, trainerJournal } from '../store/journal.ts'
import { filesOf, listRuns, type Run } from '../store/runs.ts'
import { sendAlert } from './send-alert.ts'

const pollMs = 1000
const turnsPerListing = 5
/** A line may reach the disk this long after the time it names; up to when everything was seen lags by as much. */
const marginSeconds = 5

/** What rules would have said over the whole history of a run, as if somebody had watched all the time. */
export function alertsOfHistory(run: Run, { rules }: Pick<AlertsFile, 'rules'>): Alert[] {
  const fold = new AlertFold(run.id, rules)
  const files = filesOf(run.folder)
  return inOrder(trainerJournal(files.trainer).next(), supervisorJournal(files.supervisor).next()).flatMap((item) => fold.add(item))
}

/** What a watcher tells whoever started it. */
export interface AlertTeller {
  sent(alert: Alert): void
  unsent(alert: Alert, cause: unknown): void
}

/**
 * Watches every run of a folder until it aborts and sends what its rules say. Up to when events were seen is kept beside the runs, so
 * that a watcher that was away tells what it missed, and nothing twice.
 */
export async function watchAlerts(
  runsFolder: string,
  file: AlertsFile,
  signal: AbortSignal,
  teller: AlertTeller,
  now: () => number,
): Promise<void> {
  const seen = new SeenUntil(runsFolder, file, now())
  const watched = new Map<string, WatchedRun>()
  for (let turn = 0; !signal.aborted; turn += 1) {
    const startedAt = now()
    if (turn % turnsPerListing === 0)
      for (const run of listRuns(runsFolder)) if (!watched.has(run.id)) watched.set(run.id, new WatchedRun(run, file))
    for (const run of watched.values()) for (const alert of run.next(startedAt)) if (alert.ts > seen.until) await send(alert, file, teller)
    seen.move(startedAt)
    await sleep(pollMs, undefined, { signal }).catch(() => undefined)
  }
}

async function send(alert: Alert, { send: sinks }: AlertsFile, teller: AlertTeller): Promise<void> {
  for (const sink of sinks) {
    try {
      await sendAlert(alert, sink)
      teller.sent(alert)
    } catch (cause) {
      teller.unsent(alert, cause)
    }
  }
}

class WatchedRun {
  readonly #fold: AlertFold
  readonly #trainer: ReturnType<typeof trainerJournal>
  readonly #supervisor: ReturnType<typeof supervisorJournal>

  constructor(run: Run, { rules }: AlertsFile) {
    const files = filesOf(run.folder)
    this.#fold = new AlertFold(run.id, rules)
    this.#trainer = trainerJournal(files.trainer)
    this.#supervisor = supervisorJournal(files.supervisor)
  }

  next(now: number): Alert[] {
    // The supervisor's lines first: an end written there means that the trainer has said everything.
    const told = this.#supervisor.next()
    const events = inOrder(this.#trainer.next(), told)
    return [...events.flatMap((item) => this.#fold.add(item)), ...this.#fold.silence(now)]
  }
}

const seenSchema = z.object({ until: z.number() })

/** Up to which time an alerts file was served, kept by the file's content. The first watcher begins with now. */
class SeenUntil {
  readonly #path: string
  until: number

  constructor(runsFolder: string, file: AlertsFile, now: number) {
    const folder = join(runsFolder, 'alerts')
    makeFolder(folder)
    const hash = createHash('sha256').update(JSON.stringify(file)).digest('hex').slice(0, 16)
    this.#path = join(folder, `${hash}.json`)
    this.until = this.#kept() ?? now
    if (this.#kept() === undefined) writeAtomically(this.#path, JSON.stringify({ until: now }))
  }

  #kept(): number | undefined {
    try {
      return seenSchema.parse(JSON.parse(readFileSync(this.#path, 'utf8'))).until
    } catch {
      return undefined
    }
  }

  move(until: number): void {
    if (until - marginSeconds - this.until < marginSeconds) return
    this.until = until - marginSeconds
    writeAtomically(this.#path, JSON.stringify({ until: this.until }))
  }
}
