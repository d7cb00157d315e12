import type { FailureClass, SweepEvent, TrialEnd } from './journal.ts'
import type { Values } from './space.ts'

/*
 * How a sweep stands by its journal alone: a pure fold, the same however often the journal was read and whoever wrote it.
 */

export type TrialStatus = 'queued' | 'starting' | 'running' | TrialEnd

/** One held-out loss of a trial and what was decided on it. */
export interface Report {
  readonly step: number
  readonly value: number
  readonly standardError: number | null
  readonly prune: boolean
  readonly reason: string | null
  readonly compared: readonly { readonly point: number; readonly value: number }[]
}

export interface Trial {
  readonly number: number
  readonly point: number
  /** null leaves the stage's own. */
  readonly seed: number | null
  readonly values: Values
  readonly status: TrialStatus
  readonly class: FailureClass | null
  readonly message: string
  readonly run: string | undefined
  readonly isReused: boolean
  readonly prefix: readonly { readonly stage: string; readonly run: string; readonly reused: boolean }[]
  readonly branchOf: { readonly trial: number; readonly step: number | null } | null
  readonly branchedFrom: { readonly trial: number; readonly step: number; readonly counts: boolean } | null
  /** Attempts of its run that came before it. */
  readonly attemptsBefore: number
  readonly attempt: number
  readonly reports: readonly Report[]
  readonly retries: Readonly<Partial<Record<FailureClass, number>>>
  /** Step and loss it is compared by; null before its end and where it never got there. */
  readonly step: number | null
  readonly value: number | null
  readonly standardError: number | null
  /** Device seconds the sweep paid for it, its own part of the prefix included. */
  readonly deviceSeconds: number
  /** Device seconds its run took, whoever paid for them. */
  readonly runSeconds: number
  /** Optimiser steps the sweep paid for. */
  readonly steps: number
}

export interface Point {
  readonly number: number
  /** Its number in the sampler's storage. */
  readonly asked: number
  readonly values: Values
  readonly infeasible: string | null
  /** How many points had been told when it was suggested. */
  readonly toldBefore: number
  /** An earlier point with the same settings, whose runs it shares. */
  readonly twinOf: number | null
  readonly told: { readonly state: 'done' | 'pruned' | 'failed'; readonly value: number | null } | undefined
}

/** A stage before the swept one that the sweep trained itself. */
export interface TrainedPrefix {
  readonly stage: string
  readonly run: string
  readonly attemptsBefore: number
}

export interface SweepState {
  readonly points: readonly Point[]
  readonly trials: readonly Trial[]
  readonly prefix: readonly TrainedPrefix[]
  /** Points in the order in which the sampler was told of them, by their numbers in its storage. */
  readonly told: readonly number[]
  /** How often a driver has taken it up. */
  readonly drives: number
  readonly end: { readonly reason: 'completed' | 'budget' | 'stopped' | 'failed'; readonly message: string } | undefined
}

/** Whether a trial has come to its end. */
export function isOver({ status }: Pick<Trial, 'status'>): boolean {
  return status !== 'queued' && status !== 'starting' && status !== 'running'
}

/** Folds a whole journal. */
export function foldSweep(events: Iterable<SweepEvent>): SweepState {
  const fold = new SweepFold()
  for (const event of events) fold.add(event)
  return fold.state()
}

/** The fold with room to grow. */
export class SweepFold {
  readonly #points = new Map<number, Point>()
  readonly #trials = new Map<number, Trial>()
  readonly #prefix = new Map<string, TrainedPrefix>()
  readonly #told: number[] = []
  #drives = 0
  #end: SweepState['end']
  #state: SweepState | undefined

  add(event: SweepEvent): void {
    this.#state = undefined
    switch (event.event) {
      case 'opened':
        return
      case 'driven':
        this.#drives += 1
        this.#end = undefined
        return
      case 'point':
        this.#points.set(event.point, {
          ...pick(event, ['asked', 'values', 'infeasible', 'twinOf']),
          number: event.point,
          toldBefore: this.#told.length,
          told: undefined,
        })
        return
      case 'queued':
        this.#trials.set(event.trial, queued(event, this.#points.get(event.point)?.values ?? {}))
        return
      case 'prefix':
        if (!this.#prefix.has(event.run)) this.#prefix.set(event.run, pick(event, ['stage', 'run', 'attemptsBefore']))
        return
      case 'starting':
        this.#change(event.trial, {
          ...pick(event, ['run', 'prefix', 'branchedFrom', 'attemptsBefore']),
          isReused: event.reused,
          status: 'starting',
        })
        return
      case 'running':
        this.#change(event.trial, { status: 'running', attempt: event.attempt })
        return
      case 'report':
        this.#addReport(event.trial, pick(event, ['step', 'value', 'standardError', 'prune', 'reason', 'compared']))
        return
      case 'retried':
        this.#addRetry(event.trial, event.class, event.message)
        return
      case 'trialEnded':
        this.#change(event.trial, {
          ...pick(event, ['class', 'message', 'step', 'value', 'standardError', 'deviceSeconds', 'runSeconds', 'steps']),
          status: event.state,
        })
        return
      case 'told':
        this.#tell(event.point, { state: event.state, value: event.value })
        return
      case 'ended':
        this.#end = { reason: event.reason, message: event.message }
        return
      default:
        event satisfies never
    }
  }

  state(): SweepState {
    const byNumber = (a: { number: number }, b: { number: number }) => a.number - b.number
    this.#state ??= {
      points: [...this.#points.values()].sort(byNumber),
      trials: [...this.#trials.values()].sort(byNumber),
      prefix: [...this.#prefix.values()],
      told: this.#told,
      drives: this.#drives,
      end: this.#end,
    }
    return this.#state
  }

  trial(number: number): Trial | undefined {
    return this.#trials.get(number)
  }

  #change(number: number, change: Partial<Trial>): void {
    const known = this.#trials.get(number)
    if (known) this.#trials.set(number, { ...known, ...change })
  }

  /** One report a step: a step that is reported again replaces what was said of it. */
  #addReport(number: number, report: Report): void {
    const reports = this.#trials.get(number)?.reports ?? []
    this.#change(number, { reports: [...reports.filter(({ step }) => step !== report.step), report].sort((a, b) => a.step - b.step) })
  }

  #addRetry(number: number, kind: FailureClass, message: string): void {
    const retries = this.#trials.get(number)?.retries ?? {}
    this.#change(number, { retries: { ...retries, [kind]: (retries[kind] ?? 0) + 1 }, message, status: 'starting' })
  }

  #tell(number: number, told: Point['told']): void {
    const known = this.#points.get(number)
    if (!known) return
    this.#points.set(number, { ...known, told })
    if (known.told === undefined) this.#told.push(known.asked)
  }
}

function queued({ trial, point, seed, branchOf }: Extract<SweepEvent, { event: 'queued' }>, values: Values): Trial {
  return {
    number: trial,
    branchOf,
    point,
    seed,
    values,
    status: 'queued',
    class: null,
    message: '',
    run: undefined,
    isReused: false,
    prefix: [],
    branchedFrom: null,
    attemptsBefore: 0,
    attempt: 0,
    reports: [],
    retries: {},
    step: null,
    value: null,
    standardError: null,
    deviceSeconds: 0,
    runSeconds: 0,
    steps: 0,
  }
}

function pick<T extends object, Key extends keyof T>(from: T, keys: readonly Key[]): Pick<T, Key> {
  return Object.fromEntries(keys.map((key) => [key, from[key]])) as Pick<T, Key>
}
