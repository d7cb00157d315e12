import { setTimeout as sleep } from 'node:timers/promises'
import type { PythonEnvironment } from '../bridge/environment.ts'
import { UserError } from '../domain/errors.ts'
import type { ProcessIdentity } from '../domain/protocol.ts'
import { type Attempt, endOf, newestAttempt, type RunEnd, type RunState } from '../domain/run/state.ts'
import type { Engine, Job, JobHandle, JobStatus } from '../engines/engine.ts'
import { identityOf, isAlive, isElsewhere, startedAt } from '../engines/process-identity.ts'
import { checkpointsOf } from '../store/checkpoints.ts'
import { SupervisorJournal } from '../store/journal.ts'
import { type Lock, lockHolder, takeLock } from '../store/lock.ts'
import { filesOf, killRequest, openRun, type Run, rankFailure, readState } from '../store/runs.ts'
import { endReason } from './end-reason.ts'

const pollMs = 250
/** A supervisor that has recorded an end lets go of the run within this. */
const lockPatienceMs = 5000
/** Ranks without a launcher end by themselves with a checkpoint; longer ones are swept up. */
const rankPatienceMs = 30_000
/** A trainer says something at least each ten seconds. One of another host that is silent this long is taken for lost. */
const silenceSeconds = 300

export interface SuperviseWorld {
  readonly engine: Engine
  readonly python: () => PythonEnvironment
}

/**
 * Starts the next attempt of a run, waits for it and records how it ended. An attempt that was left without a supervisor is adopted
 * first; with `adopt` nothing else is done. Returns the end; undefined where another supervisor holds the run or nothing is to adopt.
 */
export async function supervise(runFolder: string, world: SuperviseWorld, options: { adopt: boolean }): Promise<RunEnd | undefined> {
  const run = openRun(runFolder)
  const own = ownIdentity()
  const lock = await lockOf(run, own, options.adopt ? 0 : lockPatienceMs)
  if (!lock) return undefined
  const journal = new SupervisorJournal(filesOf(run.folder).supervisor)
  try {
    const open = openAttempt(readState(run))
    if (open) {
      journal.append(open.number, { event: 'adopted', by: own })
      const end = await ended(run, open.number, handleOf(run, open, world.engine), world.engine, journal)
      if (options.adopt) return end
    }
    return options.adopt ? undefined : await startAndWait(run, world, journal)
  } finally {
    journal.close()
    lock.release()
  }
}

function ownIdentity(): ProcessIdentity {
  const own = identityOf(process.pid)
  if (!own) throw new Error('this process has no entry under /proc')
  return own
}

async function lockOf(run: Run, own: ProcessIdentity, patienceMs: number): Promise<Lock | undefined> {
  const until = Date.now() + patienceMs
  for (;;) {
    const taken = takeLock(filesOf(run.folder).lock, own, (holder) => holdsOn(run, holder))
    if ('release' in taken) return taken
    if (Date.now() >= until) return undefined
    await sleep(pollMs)
  }
}

/** Whether the holder of a run's lock still lives; on another host that is told by what the run says alone. */
function holdsOn(run: Run, holder: ProcessIdentity): boolean {
  return isElsewhere(holder) ? !isSilent(readState(run)) : isAlive(holder)
}

function isSilent({ lastHeardAt }: RunState): boolean {
  return Date.now() / 1000 - (lastHeardAt ?? 0) > silenceSeconds
}

/** Whether some process supervises a run now. */
export function isSupervised(run: Run): boolean {
  const holder = lockHolder(filesOf(run.folder).lock)
  return holder !== undefined && holdsOn(run, holder)
}

function openAttempt(state: RunState): Attempt | undefined {
  const newest = newestAttempt(state)
  return newest && !newest.end ? newest : undefined
}

/** The handle in the journal; looked for where the supervisor was killed between starting the job and writing that down. */
function handleOf(run: Run, attempt: Attempt, engine: Engine): JobHandle | undefined {
  return (attempt.handle as JobHandle | null | undefined) ?? engine.find(filesOf(run.folder).exit(attempt.number))
}

async function startAndWait(run: Run, { engine, python }: SuperviseWorld, journal: SupervisorJournal): Promise<RunEnd> {
  const number = (newestAttempt(readState(run))?.number ?? 0) + 1
  const continuesFrom = checkpointsOf(run).at(-1)?.folder ?? null
  const tell = (handle: JobHandle | null, command: readonly string[]) =>
    journal.append(number, { event: 'attempt', engine: engine.name, handle, command: [...command], continuesFrom })
  let handle: JobHandle
  try {
    const job = jobOf(run, number, python())
    const command = engine.command(job)
    // Before the job starts, so that a supervisor killed in between leaves an attempt to be adopted.
    tell(null, command)
    handle = await engine.submit(job)
    tell(handle, command)
  } catch (cause) {
    tell(null, [])
    return notStarted(number, cause, journal)
  }
  return ended(run, number, handle, engine, journal)
}

function jobOf(run: Run, attempt: number, environment: PythonEnvironment): Job {
  const files = filesOf(run.folder)
  const { parallel, memory } = run.stage
  return {
    runFolder: run.folder,
    attempt,
    processes: parallel.processes,
    nodes: parallel.nodes,
    threads: memory.threads,
    ...environment,
    log: files.log(attempt),
    exitFile: files.exit(attempt),
  }
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

async function ended(run: Run, number: number, handle: JobHandle | undefined, engine: Engine, journal: SupervisorJournal): Promise<RunEnd> {
  const log = filesOf(run.folder).log(number)
  const status = await settled(run, number, handle, engine)
  const killed = killRequest(run, number)
  engine.reconcile(await leftRanks(run, number, killed ? 0 : rankPatienceMs))
  if (killed) journal.append(number, { event: 'signalled', signal: 'SIGKILL', by: killed.by })
  const state = readState(run)
  const attempt = state.attempts.find((entry) => entry.number === number)
  const end = endReason({
    attempt,
    rankFailure: rankFailure(run, attempt?.startedAt ?? 0),
    killedBy: killed?.by,
    status,
    lastStep: state.step,
    log,
    logLines: engine.logs(log, 60),
  })
  record(number, end, journal)
  return end
}

async function settled(run: Run, number: number, handle: JobHandle | undefined, engine: Engine): Promise<JobStatus & { state: 'ended' }> {
  const exitFile = filesOf(run.folder).exit(number)
  for (;;) {
    const status = engine.observe(handle, exitFile)
    if (status.state === 'ended') return status
    if (handle && isElsewhere(handle.process) && isSilent(readState(run))) return { state: 'ended', exitCode: null, signal: null }
    await sleep(pollMs)
  }
}

/** Ranks that outlived their launcher by more than a moment. */
async function leftRanks(run: Run, number: number, patienceMs: number): Promise<ProcessIdentity[]> {
  const attempt = readState(run).attempts.find((entry) => entry.number === number)
  const until = Date.now() + patienceMs
  while (livingRanks(attempt).length > 0 && Date.now() < until) await sleep(pollMs)
  return livingRanks(attempt)
}

/**
 * Ranks of an attempt that live on this host. The journal has their numbers alone; a process that started before the attempt or after
 * they were named is another one.
 */
export function livingRanks(attempt: Attempt | undefined): ProcessIdentity[] {
  if (!attempt || attempt.readyAt === undefined) return []
  const { pids, host, startedAt: from, readyAt: until } = attempt
  return pids
    .flatMap((pid) => identityOf(pid) ?? [])
    .filter((rank) => rank.host === host && startedAt(rank) >= from - 2 && startedAt(rank) <= until + 2)
}

/** The state of a run; where its attempt has ended and nobody is there to record it, that is done first. */
export async function settledState(run: Run, world: SuperviseWorld): Promise<RunState> {
  const state = readState(run)
  const attempt = newestAttempt(state)
  if (!attempt || endOf(state)) return state
  const handle = handleOf(run, attempt, world.engine)
  const status = world.engine.observe(handle, filesOf(run.folder).exit(attempt.number))
  const isForeignAndSilent = handle !== undefined && isElsewhere(handle.process) && isSilent(state)
  if (status.state === 'running' && !isForeignAndSilent) return state
  await supervise(run.folder, world, { adopt: true })
  return readState(run)
}
