import { setTimeout as sleep } from 'node:timers/promises'
import type { PythonEnvironment } from '../bridge/environment.ts'
import { UserError } from '../domain/errors.ts'
import type { ProcessIdentity } from '../domain/protocol.ts'
import { newestAttempt, type RunEnd, type RunState } from '../domain/run/state.ts'
import type { EndedJob, Engine, JobHandle } from '../engines/engine.ts'
import { FileChanges } from '../store/changes.ts'
import { checkpointsOf } from '../store/checkpoints.ts'
import { SupervisorJournal } from '../store/journal.ts'
import { engineOf, filesOf, forgetCommands, killRequest, openRun, type Run, rankFailure, readState } from '../store/runs.ts'
import { endReason } from './end-reason.ts'
import { handleOf, jobOf, jobPlace, type StartedJob } from './job.ts'
import { JobWatch } from './job-watch.ts'
import { isSilent, isSupervised, lockOf, ownIdentity } from './supervisor-lock.ts'

const pollMs = 250
/** A supervisor that has recorded an end lets go of the run within this. */
const lockPatienceMs = 5000
/** Ranks without a launcher end by themselves with a checkpoint; longer ones are swept up. */
const rankPatienceMs = 30_000

export interface SuperviseWorld {
  readonly engine: Engine
  readonly python: () => PythonEnvironment
}

/**
 * Starts an attempt of a run, waits for it and records how it ended; nothing where it is not the next one any more. Without an attempt,
 * one that was left without a supervisor is adopted instead. Returns the end; undefined where another supervisor holds the run.
 */
export async function supervise(
  runFolder: string,
  world: SuperviseWorld,
  options: { attempt: number | undefined },
): Promise<RunEnd | undefined> {
  const run = openRun(runFolder)
  const own = ownIdentity()
  const lock = await lockOf(run, own, options.attempt === undefined ? 0 : lockPatienceMs)
  if (!lock) return undefined
  try {
    const journal = new SupervisorJournal(filesOf(run.folder).supervisor)
    try {
      return await superviseLocked(run, own, world, journal, options.attempt)
    } finally {
      journal.close()
    }
  } finally {
    lock.release()
  }
}

async function superviseLocked(
  run: Run,
  own: ProcessIdentity,
  world: SuperviseWorld,
  journal: SupervisorJournal,
  wanted: number | undefined,
): Promise<RunEnd | undefined> {
  const newest = newestAttempt(readState(run))
  if (newest && !newest.end) {
    journal.append(newest.number, { event: 'adopted', by: own })
    const end = await ended(run, newest, world, journal)
    if (wanted === undefined) return end
  }
  return wanted === (newest?.number ?? 0) + 1 ? startAndWait(run, wanted, world, journal) : undefined
}

async function startAndWait(run: Run, number: number, world: SuperviseWorld, journal: SupervisorJournal): Promise<RunEnd> {
  const { engine, python } = world
  forgetCommands(run)
  const continuesFrom = checkpointsOf(run).at(-1)?.folder ?? null
  const tell = (handle: JobHandle | null, command: readonly string[]) =>
    journal.append(number, { event: 'attempt', engine: engineOf(run).kind, handle, command: [...command], continuesFrom })
  let handle: JobHandle
  try {
    const job = jobOf(run, number, python())
    const command = engine.command(job)
    // Before the job starts, so that a supervisor killed in between leaves an attempt to be adopted.
    tell(null, command)
    handle = await engine.submit(job)
    tell(handle, command)
    // Whoever asked in between had nothing to kill.
    if (killRequest(run, number)) await engine.signal(handle, job, 'KILL')
  } catch (cause) {
    tell(null, [])
    return notStarted(number, cause, journal)
  }
  return ended(run, { number, engine: engineOf(run).kind, handle }, world, journal)
}

function notStarted(number: number, cause: unknown, journal: SupervisorJournal): RunEnd {
  const message = cause instanceof UserError ? `${cause.message} [${cause.code}]` : String(cause)
  const hint = (cause instanceof UserError && cause.hint) || '`stagewright doctor` says what is missing'
  const end: RunEnd = { reason: 'failed', message, hint, step: undefined, exitCode: null, signal: null, log: null }
  record(number, end, journal)
  return end
}

function record(number: number, end: RunEnd, journal: SupervisorJournal): void {
  journal.append(number, { event: 'ended', ...end, step: end.step ?? null })
}

async function ended(run: Run, job: StartedJob, world: SuperviseWorld, journal: SupervisorJournal): Promise<RunEnd> {
  const [{ number }, { engine }] = [job, world]
  const log = filesOf(run.folder).log(number)
  const status = await settled(run, job, world, journal)
  const killed = killRequest(run, number)
  // A launcher that ends well has seen all its ranks end.
  if (status.exitCode !== 0) engine.reconcile(await leftRanks(run, job, engine, killed ? 0 : rankPatienceMs))
  if (killed && !killed.inQueue) journal.append(number, { event: 'signalled', signal: 'SIGKILL', by: killed.by })
  const state = readState(run)
  const attempt = state.attempts.find((entry) => entry.number === number)
  const end = endReason({
    attempt,
    rankFailure: rankFailure(run, attempt?.startedAt ?? 0),
    killed,
    status,
    lastStep: state.step,
    log,
    logLines: engine.logs(log, 60),
  })
  record(number, end, journal)
  return end
}

async function settled(run: Run, job: StartedJob, { engine }: SuperviseWorld, journal: SupervisorJournal): Promise<EndedJob> {
  const waited = readState(run).attempts.find(({ number }) => number === job.number)?.waited
  const watch = new JobWatch(jobPlace(run, job), filesOf(run.folder).lock, engine, journal, waited)
  const changes = new FileChanges(filesOf(run.folder).exit(job.number))
  try {
    for (;;) {
      const status = await seen(run, job, () => readState(run).lastHeardAt, engine)
      if (status.state === 'ended') return status
      await watch.see(status)
      await changes.within(pollMs)
    }
  } finally {
    changes.close()
  }
}

/** How a job stands; one that cannot be seen from here and whose run is silent is taken for ended, where its engine says so. */
async function seen(run: Run, job: StartedJob, lastHeardAt: () => number | undefined, engine: Engine) {
  const status = await engine.observe(handleOf(job), jobPlace(run, job))
  if (status.state !== 'unseen' || !status.untilSilent || !isSilent(lastHeardAt())) return status
  return { state: 'ended', exitCode: null, signal: null } satisfies EndedJob
}

/** Ranks that outlived their launcher by more than a moment. */
async function leftRanks(run: Run, job: StartedJob, engine: Engine, patienceMs: number): Promise<ProcessIdentity[]> {
  const until = Date.now() + patienceMs
  for (;;) {
    const ranks = engine.ranks(jobPlace(run, job))
    if (ranks.length === 0 || Date.now() >= until) return ranks
    await sleep(pollMs)
  }
}

/** Whether an attempt without a recorded end has ended or never began. One of another host that is silent is taken for that. */
export async function isGone(run: Run, attempt: StartedJob, lastHeardAt: number | undefined, engine: Engine): Promise<boolean> {
  return (await seen(run, attempt, () => lastHeardAt, engine)).state === 'ended'
}

/** The state of a run; where its attempt has ended and nobody is there to record it, that is done first. */
export async function settledState(run: Run, world: SuperviseWorld): Promise<RunState> {
  const state = readState(run)
  const attempt = newestAttempt(state)
  if (!attempt || attempt.end || !(await isGone(run, attempt, state.lastHeardAt, world.engine))) return state
  await supervise(run.folder, world, { attempt: undefined })
  return recordedState(run, attempt.number, world.engine)
}

/** The state once another supervisor that has just seen the end has recorded it, or has just started the attempt after all. */
async function recordedState(run: Run, number: number, engine: Engine): Promise<RunState> {
  const until = Date.now() + lockPatienceMs
  for (;;) {
    const state = readState(run)
    const attempt = newestAttempt(state)
    const isOpen = attempt?.number === number && !attempt.end && (await isGone(run, attempt, state.lastHeardAt, engine))
    if (!isOpen || !isSupervised(run) || Date.now() >= until) return state
    await sleep(pollMs)
  }
}
