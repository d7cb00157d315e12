import { setTimeout as sleep } from 'node:timers/promises'
import type { PythonEnvironment } from '../bridge/environment.ts'
import { UserError } from '../domain/errors.ts'
import type { ProcessIdentity } from '../domain/protocol.ts'
import { endOf, newestAttempt, type RunEnd, type RunState } from '../domain/run/state.ts'
import type { Engine, JobHandle } from '../engines/engine.ts'
import { identityOf, isAlive } from '../engines/process-identity.ts'
import { findCheckpoint } from '../store/checkpoints.ts'
import { SupervisorJournal } from '../store/journal.ts'
import { type Lock, takeLock } from '../store/lock.ts'
import { filesOf, openRun, type Run, readState } from '../store/runs.ts'
import { endReason } from './end-reason.ts'

const pollMs = 250

export interface SuperviseWorld {
  readonly engine: Engine
  readonly python: () => PythonEnvironment
}

/**
 * Starts the next attempt of a run, waits for it and records how it ended. Where an attempt is running already, adopts it and waits
 * for that one. Returns the end; undefined where another supervisor holds the run.
 */
export async function supervise(runFolder: string, world: SuperviseWorld, options: { adopt: boolean }): Promise<RunEnd | undefined> {
  const run = openRun(runFolder)
  const own = ownIdentity()
  const lock = takeLock(filesOf(run.folder).lock, own, isAlive)
  if (!isLock(lock)) return undefined
  const journal = new SupervisorJournal(filesOf(run.folder).supervisor)
  try {
    const current = newestAttempt(readState(run))
    const open = current && !current.end ? current : undefined
    if (open) {
      journal.append(open.number, { event: 'adopted', by: own })
      const end = await ended(run, open.number, open.handle as JobHandle, world.engine, journal)
      if (options.adopt) return end
    } else if (options.adopt) return undefined
    return await startAndWait(run, world, journal)
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

function isLock(value: Lock | ProcessIdentity): value is Lock {
  return 'release' in value
}

async function startAndWait(run: Run, { engine, python }: SuperviseWorld, journal: SupervisorJournal): Promise<RunEnd> {
  const files = filesOf(run.folder)
  const number = (newestAttempt(readState(run))?.number ?? 0) + 1
  const environment = python()
  const { parallel, memory } = run.stage
  const job = {
    runFolder: run.folder,
    attempt: number,
    processes: parallel.processes,
    nodes: parallel.nodes,
    threads: memory.threads,
    ...environment,
    log: files.log(number),
    exitFile: files.exit(number),
  }
  const handle = await engine.submit(job)
  journal.append(number, {
    event: 'attempt',
    engine: engine.name,
    handle,
    command: [environment.python, '-m', 'osplan', 'train', run.folder],
    continuesFrom: newestCheckpoint(run),
  })
  return ended(run, number, handle, engine, journal)
}

function newestCheckpoint(run: Run): string | null {
  try {
    return findCheckpoint(run, undefined).folder
  } catch (cause) {
    if (cause instanceof UserError) return null
    throw cause
  }
}

async function ended(run: Run, number: number, handle: JobHandle | undefined, engine: Engine, journal: SupervisorJournal): Promise<RunEnd> {
  const files = filesOf(run.folder)
  for (;;) {
    const status = handle ? engine.observe(handle, files.exit(number)) : ({ state: 'ended', exitCode: null, signal: null } as const)
    if (status.state === 'running') {
      await sleep(pollMs)
      continue
    }
    engine.reconcile(await leftRanks(run, number))
    const state = readState(run)
    const attempt = state.attempts.find((entry) => entry.number === number)
    const end = endReason(attempt, status, state.step, files.log(number))
    journal.append(number, { event: 'ended', ...end, step: end.step ?? null })
    return end
  }
}

/** Ranks that outlived their launcher: a moment to end by themselves with a checkpoint, then they are swept up. */
async function leftRanks(run: Run, number: number): Promise<ProcessIdentity[]> {
  const attempt = readState(run).attempts.find((entry) => entry.number === number)
  const alive = () =>
    (attempt?.pids ?? []).flatMap((pid) => identityOf(pid) ?? []).filter((rank) => startedAfter(rank, attempt?.startedAt ?? 0))
  const patience = Date.now() + 30_000
  while (alive().length > 0 && Date.now() < patience) await sleep(pollMs)
  return alive()
}

/** Whether a process with a rank's number can be that rank: it must not have started before the attempt. */
function startedAfter(rank: ProcessIdentity, attemptTs: number): boolean {
  const bootTs = Date.now() / 1000 - uptimeSeconds()
  return bootTs + Number(rank.startTime) / 100 >= attemptTs - 5
}

function uptimeSeconds(): number {
  return Number(process.hrtime.bigint() / 1_000_000_000n)
}

/** The end of a run as recorded; for one whose supervisor is gone, adopts it first if its process has ended. */
export async function settledState(run: Run, world: SuperviseWorld): Promise<RunState> {
  const state = readState(run)
  const attempt = newestAttempt(state)
  if (!attempt || endOf(state)) return state
  const handle = attempt.handle as JobHandle | undefined
  const status = handle ? world.engine.observe(handle, filesOf(run.folder).exit(attempt.number)) : undefined
  if (status?.state === 'running') return state
  await supervise(run.folder, world, { adopt: true })
  return readState(run)
}
