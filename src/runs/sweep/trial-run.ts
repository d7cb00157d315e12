import { UserError } from '../../domain/errors.ts'
import type { TrainerEvent } from '../../domain/protocol.ts'
import { newestAttempt, type RunEnd, runEnd } from '../../domain/run/state.ts'
import type { FailureClass } from '../../domain/sweep/journal.ts'
import type { SweepFile } from '../../domain/sweep/schema.ts'
import { type Run, readState } from '../../store/runs.ts'
import { attach } from '../attach.ts'
import { sendCommand, stopRun } from '../control.ts'
import { continueRun, startRun } from '../launch.ts'
import { settledState, supervise } from '../supervise.ts'
import type { RunsWorld } from '../world.ts'
import { meaningOf } from './trial-end.ts'

/** A held-out loss of a trial. */
export interface Measured {
  readonly step: number
  readonly value: number
  readonly standardError: number | null
}

/** What came of training a trial for a while. `left` is one that the sweep let go of, to be gone on with. */
export type Outcome =
  | ({ readonly state: 'done'; readonly message: string } & Measured)
  | { readonly state: 'pruned' | 'cancelled' | 'left'; readonly message: string }
  | { readonly state: 'failed'; readonly class: FailureClass; readonly message: string }

export interface TrialTask {
  readonly run: Run
  /** Whether the run is this trial's alone; one that somebody else trains is watched and never stopped. */
  readonly isOwn: boolean
  /** Step at which trials are compared. */
  readonly until: number
  readonly weights: SweepFile['objective']['weights']
  /** Called once for each step measured, in rising order; a reason ends the trial. */
  readonly onMeasured: (measured: Measured) => Promise<string | undefined>
  readonly onRunning: (attempt: number) => void
  /** Ends the trial with a checkpoint, to be gone on with or not. */
  readonly signal: AbortSignal
}

/** Why a trial is asked to end. */
export interface LeaveReason {
  readonly state: 'left' | 'cancelled'
  readonly message: string
  readonly kill: boolean
}

/** Trains a trial from where its run stands until the step that is compared, a reason to give it up, or its end. */
export async function trainTrial(task: TrialTask, world: RunsWorld): Promise<Outcome> {
  const { run } = task
  const attempt = newestAttempt(await settledState(run, world))
  const watch = new TrialWatch(task, world)
  if (attempt) {
    const known = await watch.known()
    if (known) {
      if (!attempt.end && task.isOwn) await watch.ended(attempt.number)
      return known
    }
    if (attempt.end && meaningOf(attempt.end, attempt).kind === 'finished') return watch.outcomeOf(attempt.end)
  }
  if (attempt && !attempt.end) {
    // Its supervisor died with the driver before; a job that was put back into a queue waits longer without one.
    if (task.isOwn) void supervise(run.folder, world, { attempt: undefined }).catch(() => undefined)
    return watch.toItsEnd(attempt.number)
  }
  if (task.signal.aborted) return leaving(task.signal)
  if (attempt) await continueRun(run, world)
  else await startRun(run, world)
  return watch.toItsEnd((attempt?.number ?? 0) + 1)
}

function leaving(signal: AbortSignal): Outcome {
  const { state, message } = signal.reason as LeaveReason
  return { state, message }
}

class TrialWatch {
  readonly #task: TrialTask
  readonly #world: RunsWorld
  readonly #seen = new Set<number>()
  #last: Measured | undefined
  #outcome: Outcome | undefined
  #isAsked = false

  constructor(task: TrialTask, world: RunsWorld) {
    this.#task = task
    this.#world = world
  }

  /** What the measurements made so far already decide. */
  async known(): Promise<Outcome | undefined> {
    for (const point of readState(this.#task.run).heldOut) await this.#measure(point)
    return this.#outcome
  }

  /** Follows an attempt to its end, ending it where its measurements decide. */
  async toItsEnd(attempt: number): Promise<Outcome> {
    const { signal } = this.#task
    const leave = () => void this.#stop(signal.reason as LeaveReason)
    signal.addEventListener('abort', leave)
    if (signal.aborted) leave()
    try {
      return this.outcomeOf(await this.ended(attempt))
    } finally {
      signal.removeEventListener('abort', leave)
    }
  }

  /** The end of an attempt; what it says until then is taken in. */
  async ended(attempt: number): Promise<RunEnd | undefined> {
    let end: RunEnd | undefined
    for await (const { event } of attach(this.#task.run, this.#world, { fromAttempt: attempt, isPrompt: true })) {
      if (event.attempt < attempt) continue
      if (event.event === 'ended') end = runEnd(event)
      if (event.event === 'started') this.#started(event)
      if (event.event === 'heldOut') await this.#measure(event)
      if (!this.#outcome || end) continue
      if (!this.#task.isOwn) return undefined
      this.#stopOnce(this.#outcome.message)
    }
    return end
  }

  outcomeOf(end: RunEnd | undefined): Outcome {
    if (this.#outcome) return this.#outcome
    const { run, signal, isOwn } = this.#task
    const attempt = newestAttempt(readState(run))
    const meaning = end ? meaningOf(end, attempt) : ({ kind: 'failed', class: 'lost' } as const)
    const message = end?.message ?? 'its end was not recorded'
    if (meaning.kind === 'finished') {
      if (this.#last) return { state: 'done', message: end?.message ?? '', ...this.#last }
      return { state: 'failed', class: 'user', message: 'no held-out loss was measured: data.heldOutClips is 0' }
    }
    if (signal.aborted) return leaving(signal)
    // Whoever else had it stopped has no say in this trial.
    if (meaning.kind === 'stopped' && !isOwn) return { state: 'failed', class: 'lost', message }
    if (meaning.kind === 'failed') return { state: 'failed', class: meaning.class, message }
    return { state: 'cancelled', message }
  }

  #started({ steps, attempt }: Extract<TrainerEvent, { event: 'started' }>): void {
    const { run, until, isOwn, onRunning } = this.#task
    onRunning(attempt)
    if (!isOwn || until >= steps) return
    void sendCommand(run, { name: 'stop', after: until, reason: `trials are compared at step ${until}` }, this.#world).catch(ignoreEnded)
  }

  async #measure(point: Pick<Extract<TrainerEvent, { event: 'heldOut' }>, 'step' | 'raw' | 'ema'>): Promise<void> {
    const { until, weights, onMeasured } = this.#task
    const { step } = point
    if (this.#outcome || step === 0 || step > until || this.#seen.has(step)) return
    this.#seen.add(step)
    const taken = weights === 'raw' ? point.raw : (point.ema ?? (weights === 'ema' ? null : point.raw))
    if (!taken) {
      this.#outcome = { state: 'failed', class: 'user', message: 'objective.weights is ema, and the stage keeps no average' }
      return
    }
    const measured = { step, value: taken.loss, standardError: taken.standardError ?? null }
    this.#last = measured
    const reason = await onMeasured(measured)
    if (!Number.isFinite(measured.value))
      this.#outcome = { state: 'failed', class: 'nonFinite', message: `the held-out loss at step ${step} is ${measured.value}` }
    else if (reason !== undefined) this.#outcome = { state: 'pruned', message: reason }
    else if (step === until) this.#outcome = { state: 'done', message: `measured at step ${step}`, ...measured }
  }

  #stopOnce(message: string): void {
    if (this.#isAsked) return
    this.#isAsked = true
    void this.#stop({ state: 'left', message, kill: false })
  }

  async #stop({ message, kill }: LeaveReason): Promise<void> {
    const { run, isOwn, until } = this.#task
    if (!isOwn || (this.#outcome?.state === 'done' && until >= run.stage.steps)) return
    await stopRun(run, { reason: message, kill }, this.#world).catch(ignoreEnded)
  }
}

/** A run that has ended meanwhile needs not be told anything. */
export function ignoreEnded(cause: unknown): void {
  if (!(cause instanceof UserError && cause.code === 'RUN_NOT_ACTIVE')) throw cause
}
