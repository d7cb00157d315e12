import { setTimeout as sleep } from 'node:timers/promises'
import { loadSweep, sweepFrom } from '../../config/sweep-file.ts'
import { UserError } from '../../domain/errors.ts'
import type { SweepInput } from '../../domain/sweep/schema.ts'
import type { Values } from '../../domain/sweep/space.ts'
import { isOver, type Report, type SweepState, type Trial } from '../../domain/sweep/state.ts'
import type { Sweep } from '../../store/sweeps.ts'
import type { RunsWorld } from '../world.ts'
import { type SweepChoice, sweepFor } from './begin.ts'
import { Driver, suggesterOf } from './driver.ts'
import { reportSweep, type SweepReport } from './report.ts'
import { SweepSession } from './session.ts'

const pollMs = 50

/**
 * A sweep in the hands of a script. Iterated, it trains its trials as its file says and gives each as it ends; leaving the loop stops
 * those in training with a checkpoint. Or the script does it all itself: `suggest`, `train`, `observe`, `stop`, `branch`, `tell`.
 * Either way the same folder, journal and budget as those of `stagewright sweep`: killed, the script is run again and goes on.
 */
export class ScriptSweep implements AsyncIterable<Trial> {
  readonly #session: SweepSession
  readonly #world: RunsWorld

  /** Takes up a sweep for this process. Raises UserError SWEEP_DRIVEN where another has it. */
  constructor(sweep: Sweep, world: RunsWorld) {
    const session = SweepSession.open(sweep, suggesterOf(sweep, world), world)
    if (!session)
      throw new UserError('SWEEP_DRIVEN', `${sweep.id}: expected a sweep nobody drives, got one that another process drives`, {
        hint: `stagewright sweep stop ${sweep.id}`,
      })
    this.#session = session
    this.#world = world
  }

  get id(): string {
    return this.#session.sweep.id
  }

  get state(): SweepState {
    return this.#session.state
  }

  /** A trial of the next point: the sampler's, or one with given values for all axes. Undefined where a grid is at its end. */
  suggest(values: Values | null = null): Promise<Trial | undefined> {
    return this.#session.suggest(values)
  }

  /** A trial that goes on from a checkpoint of another (its newest, or that of a step) with changed settings, from step 1 of its own. */
  async branch(from: Trial, changed: Values, at: number | null = null): Promise<Trial> {
    const trial = await this.#session.suggest({ ...from.values, ...changed }, { trial: from.number, step: at })
    if (!trial) throw new Error('a given point was not taken')
    return trial
  }

  /** Trains a trial to its end and tells the sampler once its point is at its end; undefined where the trial was left by `close`. */
  async train({ number }: Trial): Promise<Trial | undefined> {
    const trial = await this.#session.train(number)
    const point = this.state.points.find((candidate) => candidate.number === trial?.point)
    if (point && this.#session.isReady(point)) await this.#session.tellPoint(point)
    return trial
  }

  /** Held-out losses of a trial as they are measured, until it ends. */
  async *observe({ number }: Trial): AsyncGenerator<Report> {
    for (let seen = 0; ; await sleep(pollMs)) {
      const trial = this.#session.trial(number)
      for (const report of trial.reports.slice(seen)) yield report
      seen = trial.reports.length
      if (isOver(trial)) return
    }
  }

  /** Ends a trial for good. */
  stop({ number }: Trial, reason: string): void {
    this.#session.leave(number, { state: 'cancelled', message: reason, kill: false })
  }

  report(): Promise<SweepReport> {
    return reportSweep(this.#session.sweep, { importance: true }, this.#world)
  }

  /** Lets go of what is being trained, with a checkpoint, and of the sweep. */
  async close(): Promise<void> {
    await this.#session.leaveAll({ state: 'left', message: 'the script ends', kill: false })
    this.#session.close()
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Trial> {
    const ended: Trial[] = []
    let isDone = false
    const driver = new Driver(this.#session, (trial) => ended.push(trial))
    const driving = driver.drive().finally(() => {
      isDone = true
    })
    driving.catch(() => undefined)
    try {
      for (;;) {
        const trial = ended.shift()
        if (trial) yield trial
        else if (isDone) break
        else await sleep(pollMs)
      }
      this.#session.tell({ event: 'ended', ...(await driving) })
    } finally {
      if (!isDone) await driver.stop('the script left the loop')
      await driving.catch(() => undefined)
      this.#session.close()
    }
  }
}

/**
 * The sweep of a file or of an object with the same keys: the one there is of that name, or a new one. Raises UserErrors CONFIG_…,
 * SWEEP_CHANGED and SWEEP_DRIVEN.
 */
export function sweep(what: string | SweepInput, world: RunsWorld, choice: SweepChoice = {}): ScriptSweep {
  const loaded = typeof what === 'string' ? loadSweep(what) : sweepFrom(what)
  return new ScriptSweep(sweepFor(loaded, choice, world), world)
}
