import { setTimeout as sleep } from 'node:timers/promises'
import { UserError } from '../../domain/errors.ts'
import type { SweepEvent } from '../../domain/sweep/journal.ts'
import { isOver, type SweepState, type Trial } from '../../domain/sweep/state.ts'
import { forgetStop, stopRequest } from '../../store/stop-request.ts'
import { limitsOf, openSweep, type Sweep } from '../../store/sweeps.ts'
import type { RunsWorld } from '../world.ts'
import { PrefixFailed, SweepSession } from './session.ts'
import { optunaSuggester, type Suggester } from './suggester.ts'
import { isForeseeable, learns } from './together.ts'

const stopPollMs = 200
const looksPerFreshening = 150

export type SweepEnd = Pick<Extract<SweepEvent, { event: 'ended' }>, 'reason' | 'message'>

/** Drives a sweep until its budget is spent and records the end. Returns undefined where another process does. */
export async function driveSweep(folder: string, world: RunsWorld): Promise<SweepEnd | undefined> {
  const sweep = openSweep(folder)
  const session = SweepSession.open(sweep, suggesterOf(sweep, world), world)
  if (!session) return undefined
  try {
    forgetStop(sweep)
    const end = await new Driver(session).drive()
    session.tell({ event: 'ended', ...end })
    return end
  } finally {
    session.close()
  }
}

/** Optuna, told how long the longest trial may be. */
export function suggesterOf(sweep: Sweep, world: RunsWorld): Suggester {
  const { stages, sweep: file } = sweep.identity
  return optunaSuggester(sweep, file.objective.step ?? stages.at(-1)?.steps ?? 1, world)
}

/** Keeps as many trials going as the sweep allows. */
export class Driver {
  readonly #session: SweepSession
  readonly #active = new Map<number, Promise<void>>()
  #failure: { readonly cause: unknown } | undefined
  #isStopping = false
  /** Trials that are sent to a cluster as one; 0 where each goes when there is room. */
  #together = 0
  readonly #onEnded: (trial: Trial) => void

  constructor(session: SweepSession, onEnded: (trial: Trial) => void = () => undefined) {
    this.#session = session
    this.#onEnded = onEnded
  }

  /** Begins nothing more; trials that are being trained are let go of with a checkpoint. */
  async stop(message: string): Promise<void> {
    this.#isStopping = true
    await this.#session.leaveAll({ state: 'left', message, kill: false })
  }

  async drive(): Promise<SweepEnd> {
    const watching = new AbortController()
    const watch = this.#watchStop(watching.signal)
    try {
      if (this.#isForeseeable) this.#together = await this.#session.mostTogether()
      await this.#go()
    } finally {
      watching.abort()
      await watch
    }
    return this.#endOf()
  }

  async #go(): Promise<void> {
    for (;;) {
      while (await this.#begin());
      // What can wait does, while a trial is on its way.
      const hasTime = this.#learns || this.#together > 0 || !this.#isStarting()
      if (hasTime && (await this.#tellOne())) continue
      if (this.#active.size === 0) return
      if (hasTime) await this.#prepareNext()
      if (this.#active.size > 0) await Promise.race([...this.#active.values(), this.#session.nextRunning()])
    }
  }

  /** Begins one trial where there is room and one to begin. In a deterministic sweep what is suggested depends on what was told alone. */
  async #begin(): Promise<boolean> {
    const { parallel } = limitsOf(this.#session.sweep)
    if (this.#together > 0) return this.#beginTogether(parallel)
    if (this.#isOver() || this.#active.size >= parallel) return false
    const waiting = this.#waiting()
    if (waiting) return this.#train(waiting)
    if (this.#open() >= parallel || this.#session.isExhausted || this.#isSpent()) return false
    const trial = await this.#session.suggest(this.#givenPoint())
    return trial === undefined ? false : this.#train(trial)
  }

  /**
   * Sends the trials there are to a cluster as one, once those before are over: it lets as many train at a time as the sweep allows,
   * also while nobody drives. A point that is in it already waits for that run.
   */
  async #beginTogether(parallel: number): Promise<boolean> {
    if (this.#isOver() || this.#active.size > 0) return false
    const seen = new Set<number>()
    const wave = new Map<string, Trial>()
    while (wave.size < this.#together) {
      const isEnough = () => this.#session.isExhausted || this.#isSpent()
      const next = this.#waiting(seen) ?? (isEnough() ? undefined : await this.#session.suggest(this.#givenPoint()))
      if (!next) break
      seen.add(next.number)
      const same = `${this.#session.state.points[next.point]?.twinOf ?? next.point} ${next.seed}`
      if (!wave.has(same)) wave.set(same, next)
    }
    await this.#session.gather([...wave.values()], parallel)
    // The stages before them may have taken long.
    if (this.#isOver()) return false
    for (const trial of wave.values()) this.#train(trial)
    return wave.size > 0
  }

  get #isForeseeable(): boolean {
    const { sweep } = this.#session
    return isForeseeable(sweep.identity.sweep, sweep.identity.axes, limitsOf(sweep).budget)
  }

  get #learns(): boolean {
    return learns(this.#session.sweep.identity.sweep)
  }

  /** Points that the next one waits for. Where the sampler learns nothing from it, one at its end is told of while the next is trained. */
  #open(): number {
    const untold = this.#session.state.points.filter(({ told }) => told === undefined)
    return untold.filter((point) => this.#learns || !this.#session.isReady(point)).length
  }

  #isStarting(): boolean {
    return [...this.#active.keys()].some((number) => this.#session.trial(number).status !== 'running')
  }

  /** Queues the trial that comes next and makes its run, where neither what is learnt nor what is spent until then has a say in it. */
  async #prepareNext(): Promise<void> {
    if (this.#together > 0 || !this.#isForeseeable || this.#isOver() || this.#active.size === 0) return
    const isEnough = () => this.#session.isExhausted || this.#isSpent()
    const next = this.#waiting() ?? (isEnough() ? undefined : await this.#session.suggest(this.#givenPoint()))
    if (next && !this.#active.has(next.number)) this.#session.prepare(next)
  }

  /** Points taken over from the sweep this one was forked from come first. */
  #givenPoint(): Readonly<Record<string, unknown>> | null {
    return this.#session.inherited[this.#session.state.points.length] ?? null
  }

  /** A trial that was queued or left, or one of a point's further seeds. */
  #waiting(others: ReadonlySet<number> = new Set()): Trial | undefined {
    const { trials, points } = this.#session.state
    const known = trials.find((trial) => !isOver(trial) && !this.#active.has(trial.number) && !others.has(trial.number))
    if (known) return known
    // A kill between the two leaves a point without its trial.
    const bare = points.find(({ told, number }) => told === undefined && !trials.some((trial) => trial.point === number))
    if (bare && bare.infeasible === null) return this.#session.queueSeed(bare, 0)
    const point = points.find((candidate) => candidate.told === undefined && this.#session.missingSeeds(candidate).length > 0)
    const [place] = point ? this.#session.missingSeeds(point) : []
    return point && place !== undefined ? this.#session.queueSeed(point, place) : undefined
  }

  #train({ number }: Trial): true {
    const training = this.#session
      .train(number)
      .then((trial) => {
        if (trial) this.#onEnded(trial)
      })
      .catch((cause: unknown) => {
        this.#failure ??= { cause }
        return this.#session.leaveAll({ state: 'left', message: 'another trial failed', kill: false })
      })
      .then(() => {
        this.#active.delete(number)
      })
    this.#active.set(number, training)
    return true
  }

  /** Tells the sampler of one point that is at its end; in the order of the points where the sweep is deterministic. */
  async #tellOne(): Promise<boolean> {
    const untold = this.#session.state.points.filter(({ told }) => told === undefined)
    const candidates = this.#session.sweep.identity.sweep.deterministic ? untold.slice(0, 1) : untold
    const ready = candidates.find((point) => this.#session.isReady(point))
    if (!ready || this.#failure) return false
    await this.#session.tellPoint(ready)
    return true
  }

  #isOver(): boolean {
    return this.#isStopping || this.#failure !== undefined
  }

  /** Whether no further trial may be begun. Seeds that points in training still need are set aside. */
  #isSpent(): boolean {
    const { sweep } = this.#session
    const { state } = this.#session
    const { budget } = limitsOf(sweep)
    const seeds = Math.max(1, sweep.identity.sweep.seeds.length)
    const promised = state.points.filter(({ told }) => told === undefined).length * (seeds - 1)
    const trials = state.trials.length + Math.max(0, promised - furtherSeeds(state, seeds))
    const spent = spentBy(state)
    return (
      (budget.trials !== null && trials + seeds > budget.trials) ||
      (budget.steps !== null && spent.steps >= budget.steps) ||
      (budget.hours !== null && spent.hours >= budget.hours)
    )
  }

  async #watchStop(signal: AbortSignal): Promise<void> {
    let done = 'nothing'
    for (let look = 1; !signal.aborted; look += 1) {
      if (look % looksPerFreshening === 0) this.#session.freshen()
      const request = stopRequest(this.#session.sweep)
      const wanted = request === undefined ? 'nothing' : request.kill ? 'kill' : 'stop'
      if (request && wanted !== done) {
        done = wanted
        this.#isStopping = true
        await this.#session.leaveAll({ state: 'left', message: `asked of the sweep by ${request.by}`, kill: request.kill })
      }
      await sleep(stopPollMs, undefined, { signal }).catch(() => undefined)
    }
  }

  #endOf(): SweepEnd {
    const { cause } = this.#failure ?? {}
    if (cause instanceof PrefixFailed) return { reason: cause.isStopped || this.#isStopping ? 'stopped' : 'failed', message: cause.message }
    if (cause instanceof UserError) return { reason: 'failed', message: `${cause.message} [${cause.code}]` }
    if (cause !== undefined) throw cause
    if (this.#isStopping) return { reason: 'stopped', message: 'stopped by request; the same command goes on' }
    const { state, isExhausted } = this.#session
    const count = `${state.trials.length} trials`
    return isExhausted
      ? { reason: 'completed', message: `the whole grid, ${count}` }
      : { reason: 'budget', message: `the budget is spent: ${count}` }
  }
}

/** Trials of further seeds that points in training have already. */
function furtherSeeds({ trials, points }: SweepState, seeds: number): number {
  return trials.filter(({ point, number }) => points[point]?.told === undefined && number % seeds !== 0).length
}

/** What a sweep has cost so far: trials that ended. */
export function spentBy({ trials }: SweepState): { readonly steps: number; readonly hours: number } {
  return {
    steps: trials.reduce((sum, { steps }) => sum + steps, 0),
    hours: trials.reduce((sum, { deviceSeconds }) => sum + deviceSeconds, 0) / 3600,
  }
}
