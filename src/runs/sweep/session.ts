import { utimesSync } from 'node:fs'
import { UserError } from '../../domain/errors.ts'
import { newestAttempt, type RunEnd, runEnd } from '../../domain/run/state.ts'
import { bareSide } from '../../domain/stage/origin.ts'
import type { Stage } from '../../domain/stage/schema.ts'
import type { SweepEvent } from '../../domain/sweep/journal.ts'
import { gridPoints, outsideReason, type Values } from '../../domain/sweep/space.ts'
import { isOver, type Point, SweepFold, type SweepState, type Trial } from '../../domain/sweep/state.ts'
import { objectiveStep, trialStage } from '../../domain/sweep/trial-stage.ts'
import { GatheringEngine } from '../../engines/gathering.ts'
import { type BodyOf, JournalWriter } from '../../store/journal.ts'
import { takeLock } from '../../store/lock.ts'
import { findRun, type Run, readState } from '../../store/runs.ts'
import { limitsOf, type Sweep, sweepFiles, sweepJournal } from '../../store/sweeps.ts'
import { attach } from '../attach.ts'
import { startFound } from '../chain.ts'
import { stopRun } from '../control.ts'
import { branchRun, goodEnds, type Prepared, prepareRun } from '../launch.ts'
import { settledState } from '../supervise.ts'
import { ownIdentity } from '../supervisor-lock.ts'
import type { RunsWorld } from '../world.ts'
import { type Branch, branchFor, stepsBefore } from './branch.ts'
import { costOf } from './cost.ts'
import { drivesOn, supervising, usesPool } from './driving-world.ts'
import { inheritedPoints } from './inherited.ts'
import { type Suggester, tagged } from './suggester.ts'
import { mostTogether } from './together.ts'
import { ignoreEnded, type LeaveReason, type Measured, type Outcome, trainTrial } from './trial-run.ts'

type SweepLine = BodyOf<SweepEvent, 'seq' | 'ts'>

/** Lines after which the journal is on the disk. What a power cut takes of the others is asked for again, and answered the same. */
const lasting: ReadonlySet<SweepLine['event']> = new Set(['driven', 'prefix', 'starting', 'ended'])
/** Points in a row that no stage can be made of, after which the space is refused. */
const mostInfeasible = 1000

/**
 * A sweep taken up by this process: the one that writes its journal. Everything is done in an order that a kill at any instant leaves
 * to be done again without being counted twice: the sampler knows a point by its number, a trial keeps its run, a report its step.
 */
export class SweepSession {
  readonly sweep: Sweep
  readonly #journal: JournalWriter
  readonly #fold = new SweepFold()
  readonly #world: RunsWorld
  readonly #gathering: GatheringEngine | undefined
  readonly #suggester: Suggester
  readonly #release: () => void
  readonly #grid: readonly Values[] | undefined
  readonly #inherited: readonly Values[]
  /** The first point of each values, by their text. */
  readonly #pointOf = new Map<string, number>()
  readonly #leaving = new Map<number, AbortController>()
  /** Runs made for trials that wait. */
  readonly #ahead = new Map<number, Promise<TrialRun>>()
  readonly #taken = new Set<string>()
  readonly #onRunning: (() => void)[] = []
  #prefixRun: Run | undefined
  #prefix: Promise<ReadonlyMap<string, Run>> | undefined

  private constructor(sweep: Sweep, suggester: Suggester, journal: JournalWriter, release: () => void, world: RunsWorld) {
    this.sweep = sweep
    this.#suggester = suggester
    this.#journal = journal
    this.#release = release
    this.#gathering = GatheringEngine.of(world.engine)
    const engine = this.#gathering ?? world.engine
    this.#world = supervising({ ...world, engine, cwd: sweep.identity.cwd, chosenEngine: sweep.identity.engine ?? undefined })
    for (const event of sweepJournal(sweep).next()) this.#fold.add(event)
    for (const { number, values } of [...this.state.points].reverse()) this.#pointOf.set(JSON.stringify(values), number)
    this.#inherited = inheritedPoints(sweep, world)
    this.#grid = sweep.identity.sweep.sampler.name === 'grid' ? gridPoints(sweep.identity.axes) : undefined
  }

  /** Takes a sweep up; undefined where another process has it. */
  static open(sweep: Sweep, suggester: Suggester, world: RunsWorld): SweepSession | undefined {
    const own = ownIdentity()
    const lock = takeLock(sweepFiles(sweep.folder).lock, own, (holder) => drivesOn(sweep, holder))
    if (!('release' in lock)) return undefined
    const journal = new JournalWriter(sweepFiles(sweep.folder).journal)
    const pool = usesPool(sweep) ? world.warmEngine(sweepFiles(sweep.folder).pool) : undefined
    const release = () => {
      pool?.close()
      lock.release()
    }
    const session = new SweepSession(sweep, suggester, journal, release, pool ? { ...world, engine: pool.engine } : world)
    session.tell({ event: 'driven', by: own })
    return session
  }

  get state(): SweepState {
    return this.#fold.state()
  }

  trial(number: number): Trial {
    const trial = this.#fold.trial(number)
    if (!trial)
      throw new UserError('TRIAL_UNKNOWN', `${this.sweep.id}: expected a trial, got ${number}`, { hint: 'stagewright sweep show' })
    return trial
  }

  /** The stage that is swept, before any point is applied. */
  get base(): Stage {
    const stage = this.sweep.identity.stages.at(-1)
    if (!stage) throw new Error('a sweep without stages')
    return stage
  }

  tell(line: SweepLine): void {
    const event = { seq: 0, ts: 0, ...line } as SweepEvent
    this.#journal.append(line.event === 'report' ? reportLine(line) : line, { flush: lasting.has(line.event) })
    this.#fold.add(event)
  }

  /** Says to other hosts that this process still drives the sweep. */
  freshen(): void {
    const now = new Date()
    utimesSync(sweepFiles(this.sweep.folder).lock, now, now)
  }

  close(): void {
    this.#journal.close()
    this.#release()
  }

  /** Points this sweep begins with: those that the one it was forked from has finished. */
  get inherited(): readonly Values[] {
    return this.#inherited
  }

  /** Whether the grid has been walked to its end. */
  get isExhausted(): boolean {
    return this.#grid !== undefined && this.state.points.length >= this.#grid.length
  }

  /**
   * The next point, with a trial of its first seed queued: the sampler's, or a given one. Points that no stage can be made of are told
   * to the sampler as failed and passed over. Undefined where a grid is at its end.
   */
  async suggest(given: Values | null = null, branchOf: Trial['branchOf'] = null): Promise<Trial | undefined> {
    if (given) this.#refuseOutside(given)
    for (let tries = 0; tries < mostInfeasible; tries += 1) {
      const number = this.state.points.length
      const wanted = given ?? this.#grid?.[number] ?? null
      if (this.#grid && !wanted) return undefined
      const point = await this.#ask(number, wanted)
      if (point.infeasible === null) return this.queueSeed(point, 0, branchOf)
      if (given) throw new UserError('POINT_INFEASIBLE', `point ${number}: expected settings of a stage, got: ${point.infeasible}`)
    }
    throw new UserError(
      'SWEEP_INFEASIBLE',
      `${this.sweep.id}: expected a point that fulfils the constraints, got ${mostInfeasible} that do not`,
      {
        hint: 'narrow the space, or compute a setting from the others under `derived`',
      },
    )
  }

  #refuseOutside(given: Values): void {
    const reason = outsideReason(this.sweep.identity.axes, given)
    if (reason !== undefined) throw new UserError('POINT_OUTSIDE', `expected a point of the sweep, got one of which ${reason}`)
  }

  async #ask(number: number, given: Values | null): Promise<Point> {
    const values = await this.#suggester.ask(number, given)
    const { seeds } = this.sweep.identity.sweep
    const made = trialStage(this.base, this.sweep.identity.sweep, values, seeds[0] ?? null)
    const infeasible = 'infeasible' in made ? made.infeasible : null
    const key = JSON.stringify(values)
    const twinOf = this.#pointOf.get(key) ?? null
    if (twinOf === null) this.#pointOf.set(key, number)
    this.tell({ event: 'point', point: number, asked: number, values, infeasible, twinOf })
    if (infeasible !== null) {
      await this.#suggester.tell(number, 'failed', null)
      this.tell({ event: 'told', point: number, state: 'failed', value: null })
    }
    const point = this.state.points[number]
    if (!point) throw new Error('a point that was told is not there')
    return point
  }

  /** Queues a point's trial with one of its seeds. Its number depends on the point and the seed alone. */
  queueSeed(point: Point, place: number, branchOf: Trial['branchOf'] = null): Trial {
    const { seeds } = this.sweep.identity.sweep
    const number = point.number * Math.max(1, seeds.length) + place
    if (!this.#fold.trial(number)) this.tell({ event: 'queued', trial: number, point: point.number, seed: seeds[place] ?? null, branchOf })
    return this.trial(number)
  }

  /** Whether a trial's point still lacks trials of its other seeds: they are trained only once the first came to its end. */
  missingSeeds({ number }: Point): number[] {
    const places = this.sweep.identity.sweep.seeds.map((_, place) => place)
    const first = this.#fold.trial(number * Math.max(1, places.length))
    if (first?.status !== 'done') return []
    return places.filter((place) => place > 0 && !this.#fold.trial(number * places.length + place))
  }

  /** Whether a point is at its end and not told yet. */
  isReady(point: Point): boolean {
    if (point.infeasible !== null) return point.told === undefined
    const trials = this.state.trials.filter((trial) => trial.point === point.number)
    return point.told === undefined && trials.length > 0 && trials.every(isOver) && this.missingSeeds(point).length === 0
  }

  /**
   * Tells the sampler what became of a point: the mean over its seeds where they are done. One that diverged was worse than all others,
   * which the sampler must learn; of one that failed for another reason nothing is known.
   */
  async tellPoint(point: Point): Promise<void> {
    const trials = this.state.trials.filter((trial) => trial.point === point.number)
    const losses = trials.flatMap(({ status, value }) => (status === 'done' && value !== null ? [value] : []))
    const value = losses.length === 0 ? null : losses.reduce((sum, loss) => sum + loss, 0) / losses.length
    const state = value !== null ? 'done' : trials.some(isWorst) ? 'pruned' : 'failed'
    await this.#suggester.tell(point.asked, state, value)
    this.tell({ event: 'told', point: point.number, state, value })
  }

  /** Ends a trial that is being trained, to be gone on with (`left`) or for good (`cancelled`). */
  leave(number: number, reason: LeaveReason): void {
    this.#leaving.get(number)?.abort(reason)
  }

  /** Lets go of everything that is being trained, the stages before the swept one included. */
  async leaveAll(reason: LeaveReason): Promise<void> {
    for (const number of this.#leaving.keys()) this.leave(number, reason)
    if (this.#prefixRun) await stopRun(this.#prefixRun, { reason: reason.message, kill: reason.kill }, this.#world).catch(ignoreEnded)
  }

  /** Trains a trial to its end, continuing it after ends that its class allows. Undefined where it was left. */
  async train(number: number): Promise<Trial | undefined> {
    const controller = new AbortController()
    this.#leaving.set(number, controller)
    try {
      const outcome = await this.#outcome(number, controller.signal)
      if (outcome.state === 'left') return undefined
      this.#end(number, outcome)
      return this.trial(number)
    } finally {
      this.#leaving.delete(number)
    }
  }

  async #outcome(number: number, signal: AbortSignal): Promise<Outcome> {
    for (;;) {
      const outcome = await this.#attempted(number, signal)
      if (outcome.state !== 'failed') return outcome
      const { class: kind, message } = outcome
      const used = this.trial(number).retries[kind] ?? 0
      if (used >= limitsOf(this.sweep).retries[kind]) return outcome
      this.tell({ event: 'retried', trial: number, class: kind, message })
    }
  }

  async #attempted(number: number, signal: AbortSignal): Promise<Outcome> {
    let run: Run | undefined
    try {
      run = await this.#runOf(number, signal)
      const trial = this.trial(number)
      return await trainTrial(
        {
          run,
          // One that others let go of is ours from then on.
          isOwn: !trial.isReused || (trial.retries.lost ?? 0) > 0,
          until: objectiveStep(run.stage, this.sweep.identity.sweep),
          weights: this.sweep.identity.sweep.objective.weights,
          onMeasured: (measured) => this.#measured(number, measured),
          onRunning: (attempt) => {
            if (this.trial(number).status !== 'running' || this.trial(number).attempt < attempt)
              this.tell({ event: 'running', trial: number, attempt })
            for (const begun of this.#onRunning.splice(0)) begun()
          },
          signal,
        },
        this.#world,
      )
    } catch (cause) {
      if (cause instanceof PrefixFailed) throw cause
      if (cause instanceof UserError)
        return {
          state: 'failed',
          class: cause.code === 'SUPERVISOR_FAILED' ? 'infrastructure' : 'user',
          message: `${cause.message} [${cause.code}]`,
        }
      throw cause
    } finally {
      if (run) this.#gathering?.forget(run.folder)
    }
  }

  /** The run of a trial: the one it has, or a new one, or one that trained the very same thing. */
  async #runOf(number: number, signal: AbortSignal): Promise<Run> {
    const trial = this.trial(number)
    if (trial.run !== undefined) return findRun(this.#world.runsFolder, trial.run)
    const ahead = await this.#ahead.get(number)
    this.#ahead.delete(number)
    const { run, found, prefix, branch } = ahead?.found === 'new' ? ahead : await this.#made(trial, signal)
    const { trials, prefix: trained } = this.state
    const pays = trials.every((other) => other.prefix.length === 0) ? trained.map((entry) => entry.run) : []
    this.tell({
      event: 'starting',
      trial: number,
      run: run.id,
      reused: found === 'training',
      prefix: [...prefix].map(([stage, entry]) => ({ stage, run: entry.id, reused: !pays.includes(entry.id) })),
      branchedFrom: branch?.from ?? null,
      attemptsBefore: newestAttempt(readState(run))?.number ?? 0,
    })
    return run
  }

  async #made(trial: Trial, signal: AbortSignal): Promise<TrialRun> {
    const made = trialStage(this.base, this.sweep.identity.sweep, trial.values, trial.seed)
    if ('infeasible' in made)
      throw new UserError('POINT_INFEASIBLE', `trial ${trial.number}: expected settings of a stage, got: ${made.infeasible}`)
    const prefix = await this.#prefixRuns(signal)
    const branch = branchFor(trial, made.stage, this.state.trials)
    return { ...(branch ? await this.#branched(branch) : await this.#prepared(made.stage, prefix)), prefix, branch }
  }

  /**
   * Makes the run of a queued trial while others train, so that its process starts as soon as there is room. Nothing is told of it: a
   * run that never starts is taken by whoever trains the same.
   */
  prepare(trial: Trial): void {
    if (trial.run !== undefined || trial.branchOf || 'steps' in trial.values || this.#ahead.has(trial.number)) return
    const making = this.#made(trial, new AbortController().signal)
    making.then(({ run }) => this.#taken.add(run.id)).catch(() => undefined)
    this.#ahead.set(trial.number, making)
  }

  /** How many trials may be sent as one; 0 where each goes alone. */
  mostTogether(): Promise<number> {
    return mostTogether(this.sweep.identity.engine ?? undefined, this.#world.engine)
  }

  /** Makes the runs of trials whose jobs are then sent as one, of which so many train at a time. */
  async gather(trials: readonly Trial[], atATime: number): Promise<void> {
    const folders: string[] = []
    for (const trial of trials) {
      const run = await this.#runAhead(trial)
      const attempt = run && newestAttempt(await settledState(run, this.#world))
      if (run && (!attempt || attempt.end)) folders.push(run.folder)
    }
    this.#gathering?.expect(folders, { folder: this.sweep.folder, atATime })
  }

  /** The run of a trial before its turn; undefined where it cannot be made, which its turn will tell. */
  async #runAhead(trial: Trial): Promise<Run | undefined> {
    if (trial.run !== undefined) return findRun(this.#world.runsFolder, trial.run)
    this.prepare(trial)
    return this.#ahead.get(trial.number)?.then(
      ({ run }) => run,
      () => undefined,
    )
  }

  /** Resolves when the next trial has begun to train. */
  nextRunning(): Promise<void> {
    return new Promise((resolve) => this.#onRunning.push(resolve))
  }

  /** A run that goes on from a checkpoint of another trial's. */
  async #branched({ from, stage }: Branch): Promise<Prepared> {
    const parent = this.trial(from.trial)
    const side = bareSide(stage.name, stage)
    return branchRun(findRun(this.#world.runsFolder, parent.run ?? ''), from.step - stepsBefore(parent), side, this.#world)
  }

  #prepared(stage: Stage, earlier: ReadonlyMap<string, Run>): Promise<Prepared> {
    const recipe = { file: this.sweep.identity.sweep.recipe, stage: stage.name }
    const taken = new Set([...this.#taken, ...this.state.trials.map(({ run }) => run)])
    return prepareRun(
      bareSide(stage.name, stage),
      { verb: 'train', earlier, recipe, reuse: true, unstarted: (run) => !taken.has(run.id) },
      this.#world,
    )
  }

  /** Runs of the stages before the swept one, trained once for all trials; a failure is not kept. */
  #prefixRuns(signal: AbortSignal) {
    this.#prefix ??= this.#trainPrefix(signal).catch((cause: unknown) => {
      this.#prefix = undefined
      throw cause
    })
    return this.#prefix
  }

  async #trainPrefix(signal: AbortSignal): Promise<ReadonlyMap<string, Run>> {
    const runs = new Map<string, Run>()
    for (const stage of this.sweep.identity.stages.slice(0, -1)) {
      if (signal.aborted) throw new PrefixFailed(`${stage.name}: stopped before it`, true)
      const prepared = await this.#prepared(stage, runs)
      if (prepared.found !== 'finished') await this.#trainStage(prepared)
      runs.set(stage.name, prepared.run)
    }
    return runs
  }

  async #trainStage(prepared: Prepared): Promise<void> {
    const { run } = prepared
    const before = newestAttempt(readState(run))?.number ?? 0
    this.#prefixRun = run
    this.tell({ event: 'prefix', stage: run.stage.name, run: run.id, attemptsBefore: before })
    await startFound(prepared, this.#world)
    let end: RunEnd | undefined
    const from = prepared.found === 'training' ? before : before + 1
    for await (const { event } of attach(run, this.#world, { fromAttempt: from, isPrompt: true }))
      if (event.event === 'ended') end = runEnd(event)
    this.#prefixRun = undefined
    if (!end || !goodEnds.includes(end.reason))
      throw new PrefixFailed(`${run.stage.name} (${run.id}): ${end?.message ?? 'its end was not recorded'}`, end?.reason === 'stopped')
  }

  /** Takes in a loss; returns why the trial is given up, if it is. The first seed of a point decides for all of them. */
  async #measured(number: number, { step: ownStep, value, standardError }: Measured): Promise<string | undefined> {
    const trial = this.trial(number)
    const step = ownStep + stepsBefore(trial)
    const known = trial.reports.find((report) => report.step === step)
    if (known) return known.prune ? (known.reason ?? '') : undefined
    const point = this.state.points[trial.point]
    const { pruner, deterministic } = this.sweep.identity.sweep
    const isScout = number === trial.point * Math.max(1, this.sweep.identity.sweep.seeds.length)
    const run = findRun(this.#world.runsFolder, trial.run ?? '')
    const last = objectiveStep(run.stage, this.sweep.identity.sweep) + stepsBefore(trial)
    const decide = pruner.name !== 'none' && step >= pruner.warmupSteps && step < last
    const decision =
      isScout && point
        ? await this.#suggester.report(point.asked, step, value, {
            decide,
            visible: deterministic ? this.state.told.slice(0, point.toldBefore) : null,
          })
        : { prune: false, reason: null, compared: [] }
    this.tell({ event: 'report', trial: number, step, value, standardError, ...decision, compared: [...decision.compared] })
    return decision.prune ? (decision.reason ?? '') : undefined
  }

  /** Attempts of a run before this sweep took it up. */
  #before(run: string): number {
    return this.state.prefix.find((entry) => entry.run === run)?.attemptsBefore ?? 0
  }

  #end(number: number, outcome: Exclude<Outcome, { state: 'left' }>): void {
    const trial = this.trial(number)
    const run = trial.run === undefined ? undefined : findRun(this.#world.runsFolder, trial.run)
    const nothing = { deviceSeconds: 0, steps: 0 }
    const own = run && !trial.isReused ? costOf(run, trial.attemptsBefore) : nothing
    const prefix = trial.prefix
      .filter(({ reused }) => !reused)
      .map((entry) => costOf(findRun(this.#world.runsFolder, entry.run), this.#before(entry.run)))
    const done = outcome.state === 'done' ? outcome : undefined
    this.tell({
      event: 'trialEnded',
      trial: number,
      state: outcome.state === 'left' ? 'cancelled' : outcome.state,
      class: outcome.state === 'failed' ? outcome.class : null,
      message: outcome.message,
      step: done ? done.step + stepsBefore(trial) : (trial.reports.at(-1)?.step ?? null),
      value: done?.value ?? null,
      standardError: done?.standardError ?? null,
      deviceSeconds: [own, ...prefix].reduce((sum, cost) => sum + cost.deviceSeconds, 0),
      runSeconds: run ? costOf(run).deviceSeconds : 0,
      steps: [own, ...prefix].reduce((sum, cost) => sum + cost.steps, 0),
    })
  }
}

/** The run of a trial and what it starts from. */
interface TrialRun extends Prepared {
  readonly prefix: ReadonlyMap<string, Run>
  readonly branch: Branch | undefined
}

/** A stage that every trial needs came to a bad end. */
export class PrefixFailed extends UserError {
  readonly isStopped: boolean

  constructor(message: string, isStopped: boolean) {
    super('SWEEP_PREFIX', message, { hint: 'every trial starts from it: mend the cause, then the same command goes on', exitCode: 1 })
    this.isStopped = isStopped
  }
}

function isWorst({ status, class: kind }: Trial): boolean {
  return status === 'pruned' || kind === 'nonFinite'
}

/** Losses that JSON cannot hold travel tagged. */
function reportLine(line: Extract<SweepLine, { event: 'report' }>): object {
  return { ...line, value: tagged(line.value), compared: line.compared.map(({ point, value }) => ({ point, value: tagged(value) })) }
}
