import type { EndReason, SupervisorEvent, TrainerEvent } from '../protocol.ts'

/*
 * The state of a run as a pure fold over its two journals. Nothing here looks at a process or a clock: whether an attempt
 * without an end still lives is asked of the engine.
 */

export interface StepPoint {
  readonly step: number
  readonly ts: number
  readonly attempt: number
  readonly loss: number
  readonly learningRate: number
  readonly gradientNorm: number | undefined
  readonly secondsPerStep: number
  readonly memoryBytes?: number | undefined
}

export interface HeldOutPoint {
  readonly step: number
  readonly attempt: number
  readonly raw: { readonly loss: number; readonly psnr?: number | null | undefined; readonly standardError?: number | null | undefined }
  readonly ema: {
    readonly loss: number
    readonly psnr?: number | null | undefined
    readonly standardError?: number | null | undefined
  } | null
  readonly zero?: number | null | undefined
  readonly swappedCaptions?: number | null | undefined
  readonly meanColourPsnr?: number | null | undefined
}

export interface CheckpointPoint {
  readonly step: number
  readonly path: string
  readonly bytes: number
  readonly sha256: string
}

export interface RunEnd {
  readonly reason: EndReason
  readonly message: string
  readonly hint: string
  readonly step: number | undefined
  readonly exitCode: number | null
  readonly signal: string | null
  /** The log to look into; null where the message says all. */
  readonly log: string | null
}

export interface Attempt {
  readonly number: number
  readonly engine: string
  readonly handle: unknown
  readonly startedAt: number
  /** Ranks as the trainer named them. */
  readonly pids: readonly number[]
  readonly host: string | undefined
  readonly socket: string | undefined
  /** What the trainer said of its own end; undefined where it could not. */
  readonly finished: { readonly reason: EndReason; readonly message: string; readonly step: number } | undefined
  readonly failure: { readonly code: string; readonly message: string; readonly hint: string | undefined } | undefined
  readonly end: RunEnd | undefined
  /** When its ranks were last ready, in seconds since 1970; 0 before. A cluster may start a job several times. */
  readonly readyAt: number
  /** The last time its job was seen waiting for machines. */
  readonly waited: Waiting | undefined
  /** Bytes it waits for on a full disk, and those that were free when it last looked; undefined where it does not wait. */
  readonly fullDisk: { readonly needed: number; readonly free: number } | undefined
}

/** A job that waits for machines, as of a time in seconds since 1970. */
export interface Waiting {
  readonly ts: number
  readonly why: string
  readonly eligibleAt: number | null
  readonly restarts: number
}

/** What an attempt's job waits for; undefined where it trains, has trained or has ended. */
export function waitingFor(attempt: Attempt | undefined): Waiting | undefined {
  const waited = attempt?.waited
  return waited && !attempt.end && waited.ts > attempt.readyAt ? waited : undefined
}

/** A phase that began after a step; the first begins with the run and is not among them. */
export type PhasePoint = Pick<Extract<TrainerEvent, { event: 'phase' }>, 'index' | 'step' | 'trainable' | 'parameters'>
/** What a phase left as it was, and what it moved. */
export type PhaseProof = Extract<TrainerEvent, { event: 'phaseProof' }>

/** What a run on a full disk waits for. */
export function fullDiskText({ needed, free }: NonNullable<Attempt['fullDisk']>): string {
  const size = (bytes: number) => (bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : `${(bytes / 1e6).toFixed(1)} MB`)
  return `waiting: disk full, needs ${size(needed)}, free ${size(free)}`
}

/** What the watch over a run found, and what was done about it. */
export type Incident = Extract<TrainerEvent, { event: 'incident' }>

export interface RunState {
  readonly attempts: readonly Attempt[]
  /** Step the newest attempt has reached. */
  readonly step: number
  readonly steps: number | undefined
  /** Newest point of each step; points of a rolled-back or re-done stretch are replaced. */
  readonly points: readonly StepPoint[]
  readonly heldOut: readonly HeldOutPoint[]
  readonly checkpoints: readonly CheckpointPoint[]
  readonly samples: readonly { readonly step: number; readonly path: string; readonly prompt: string }[]
  /** Live changes in the order in which they took effect. */
  readonly changes: readonly {
    readonly step: number
    readonly path: string
    readonly effective: unknown
    readonly by: string | undefined
  }[]
  /** In the order in which they were seen. */
  readonly incidents: readonly Incident[]
  /** In their order. */
  readonly phases: readonly PhasePoint[]
  /** The newest of each phase that has ended. */
  readonly proofs: readonly PhaseProof[]
  readonly data: Extract<TrainerEvent, { event: 'data' }> | undefined
  readonly model: { readonly parameters: number; readonly trainable: number } | undefined
  readonly device: string | undefined
  /** Time of the last line of either journal; its age is the heartbeat. */
  readonly lastHeardAt: number | undefined
}

/** The newest attempt; undefined before the first. */
export function newestAttempt(state: RunState): Attempt | undefined {
  return state.attempts.at(-1)
}

/** How the run ended, if its newest attempt has ended. */
export function endOf(state: RunState): RunEnd | undefined {
  return newestAttempt(state)?.end
}

/** Folds whole journals: by attempt, and within an attempt the trainer's lines before the supervisor's end. */
export function foldRun(trainer: readonly TrainerEvent[], supervisor: readonly SupervisorEvent[]): RunState {
  const fold = new RunFold()
  for (const { attempt, event } of inOrder(trainer, supervisor)) fold.add(attempt, event)
  return fold.state()
}

/** One event of a run, whichever journal it stands in. */
export interface RunEvent {
  readonly attempt: number
  readonly event: TrainerEvent | SupervisorEvent
}

/** Lines of both journals in one order: by attempt; within one its beginning, what was said while it lasted, its end. */
export function inOrder(trainer: readonly TrainerEvent[], supervisor: readonly SupervisorEvent[]): RunEvent[] {
  const rank = (event: TrainerEvent | SupervisorEvent) => (event.event === 'attempt' ? 0 : event.event === 'ended' ? 2 : 1)
  const all = [...supervisor, ...trainer].map((event) => ({ attempt: event.attempt, event }))
  return all.sort((a, b) => a.attempt - b.attempt || rank(a.event) - rank(b.event))
}

/** The end a supervisor's line tells of. */
export function runEnd({ reason, message, hint, step, exitCode, signal, log }: Extract<SupervisorEvent, { event: 'ended' }>): RunEnd {
  return { reason, message, hint, step: step ?? undefined, exitCode, signal, log }
}

/** The fold with room to grow: events of a live run are added as they come. */
export class RunFold {
  #attempts: Attempt[] = []
  /** By rising step. */
  readonly #points: StepPoint[] = []
  /** By step, in the order they were measured. */
  readonly #heldOut = new Map<number, HeldOutPoint>()
  #checkpoints = new Map<string, CheckpointPoint>()
  readonly #samples = new Map<string, { step: number; path: string; prompt: string }>()
  #changes: { step: number; path: string; effective: unknown; by: string | undefined }[] = []
  #incidents: Incident[] = []
  #phases: PhasePoint[] = []
  #proofs: PhaseProof[] = []
  readonly #rest: { -readonly [Name in 'step' | 'steps' | 'data' | 'model' | 'device' | 'lastHeardAt']: RunState[Name] } = {
    step: 0,
    steps: undefined,
    data: undefined,
    model: undefined,
    device: undefined,
    lastHeardAt: undefined,
  }

  /** Adds one event of an attempt. Events of one journal must come in their order. */
  add(attempt: number, event: TrainerEvent | SupervisorEvent): void {
    this.hear(event.ts)
    switch (event.event) {
      case 'attempt':
        this.#addAttempt(event)
        return
      case 'ended':
        this.#change(attempt, { end: runEnd(event) })
        return
      case 'ready':
        this.#rest.device = event.device
        // A job that a cluster starts again has not ended, whatever its earlier start said.
        this.#change(attempt, {
          pids: event.pids,
          host: event.host,
          socket: event.socket ?? undefined,
          readyAt: event.ts,
          finished: undefined,
          failure: undefined,
          fullDisk: undefined,
        })
        return
      case 'started':
        Object.assign(this.#rest, { step: event.step, steps: event.steps })
        this.#forget(event.step)
        return
      case 'step':
        this.#addStep(event)
        return
      case 'heldOut':
        this.#heldOut.delete(event.step)
        this.#heldOut.set(event.step, event)
        return
      case 'checkpoint':
        this.#checkpoints.set(event.path, event)
        return
      case 'checkpointDeleted':
        this.#checkpoints.delete(event.path)
        return
      case 'sample':
        this.#samples.delete(event.path)
        this.#samples.set(event.path, event)
        return
      case 'command':
        this.#addCommand(event)
        return
      case 'incident':
        this.#incidents.push(event)
        if (typeof event.rolledBackTo === 'number') this.#goBack(event.rolledBackTo, event.undone ?? {})
        return
      case 'data':
        this.#rest.data = event
        return
      case 'model':
        this.#rest.model = event
        return
      case 'phase':
        this.#phases = [...this.#phases.filter(({ index }) => index < event.index), event]
        return
      case 'phaseProof':
        this.#proofs = [...this.#proofs.filter(({ index }) => index < event.index), event]
        return
      case 'failed':
        this.#change(attempt, { failure: { code: event.code, message: event.message, hint: event.hint ?? undefined } })
        return
      case 'finished':
        this.#change(attempt, { finished: event })
        return
      case 'waiting':
        this.#change(attempt, { waited: event })
        return
      case 'diskFull':
        this.#change(attempt, { fullDisk: { needed: event.needed, free: event.free } })
        return
      case 'diskFree':
        this.#change(attempt, { fullDisk: undefined })
        return
      case 'opened':
      case 'adopted':
      case 'signalled':
      case 'loaded':
      case 'latents':
      case 'skippedClips':
      case 'cache':
      case 'cacheProblem':
      case 'stageFilled':
      case 'heartbeat':
        return
      default:
        event satisfies never
    }
  }

  /** The run has come to a step at a time in seconds; its point is kept elsewhere. */
  reach(step: number, ts: number): void {
    this.hear(ts)
    if (step <= this.#rest.step) this.#forget(step - 1)
    this.#rest.step = step
  }

  /** Something was said at a time in seconds. */
  hear(ts: number): void {
    this.#rest.lastHeardAt = Math.max(this.#rest.lastHeardAt ?? 0, ts)
  }

  state(): RunState {
    return {
      ...this.#rest,
      attempts: this.#attempts,
      points: [...this.#points],
      heldOut: [...this.#heldOut.values()],
      checkpoints: [...this.#checkpoints.values()].sort((a, b) => a.step - b.step),
      samples: [...this.#samples.values()],
      changes: [...this.#changes],
      incidents: [...this.#incidents],
      phases: this.#phases,
      proofs: this.#proofs,
    }
  }

  #addStep(event: Extract<TrainerEvent, { event: 'step' }>): void {
    const { step, ts, attempt, loss, learningRate, secondsPerStep } = event
    if (step <= this.#rest.step) this.#forget(step - 1)
    const [gradientNorm, memoryBytes] = [event.gradientNorm ?? undefined, event.memoryBytes ?? undefined]
    this.#points.push({
      step,
      ts,
      attempt,
      loss,
      learningRate,
      gradientNorm,
      secondsPerStep,
      ...(memoryBytes === undefined ? {} : { memoryBytes }),
    })
    this.#rest.step = step
  }

  #addCommand(event: Extract<TrainerEvent, { event: 'command' }>): void {
    if (event.name !== 'set' || event.status !== 'applied') return
    const path = typeof event.path === 'string' ? event.path : ''
    this.#changes.push({ step: event.step, path, effective: event.effective, by: event.by ?? undefined })
    if (path === 'steps' && typeof event.effective === 'number') this.#rest.steps = event.effective
  }

  /** After a roll-back the steps behind it have not been done, and what was changed since may be as it was. */
  #goBack(step: number, undone: NonNullable<Incident['undone']>): void {
    for (const [path, [, effective]] of Object.entries(undone)) this.#changes.push({ step: step + 1, path, effective, by: 'roll-back' })
    if (step < this.#rest.step) this.#rest.step = step
    this.#forget(step)
  }

  /** Drops what a continued or rolled-back run does again: everything after a step. */
  #forget(after: number): void {
    for (let last = this.#points.at(-1); last && last.step > after; last = this.#points.at(-1)) this.#points.pop()
    for (const step of this.#heldOut.keys()) if (step > after) this.#heldOut.delete(step)
    this.#phases = this.#phases.filter(({ step }) => step <= after)
  }

  /** Told twice: before its job starts, and with the handle after. The trainer may have spoken in between. */
  #addAttempt({ attempt, engine, handle, ts }: Extract<SupervisorEvent, { event: 'attempt' }>): void {
    const startedAt = this.#attempts.find(({ number }) => number === attempt)?.startedAt || ts
    this.#change(attempt, { engine, handle, startedAt })
  }

  #change(attempt: number, change: Partial<Attempt>): void {
    const known = this.#attempts.find(({ number }) => number === attempt) ?? blankAttempt(attempt)
    this.#attempts = [...this.#attempts.filter(({ number }) => number !== attempt), { ...known, ...change }].sort(
      (a, b) => a.number - b.number,
    )
  }
}

/** An attempt whose own line is not there (yet): its trainer spoke first, or the supervisor's journal was lost. */
function blankAttempt(number: number): Attempt {
  return {
    number,
    engine: 'local',
    handle: undefined,
    startedAt: 0,
    pids: [],
    host: undefined,
    socket: undefined,
    finished: undefined,
    failure: undefined,
    end: undefined,
    readyAt: 0,
    waited: undefined,
    fullDisk: undefined,
  }
}
