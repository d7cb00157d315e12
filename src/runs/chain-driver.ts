import { setTimeout as sleep } from 'node:timers/promises'
import type { ChainEnd, ChainEvent, FoundRun } from '../domain/chain.ts'
import { UserError } from '../domain/errors.ts'
import type { ProcessIdentity } from '../domain/protocol.ts'
import { newestAttempt, type RunEnd, runEnd } from '../domain/run/state.ts'
import { isAlive, isElsewhere } from '../engines/process-identity.ts'
import { type Chain, chainFiles, chainHash, createChain, listChains, openChain, readChainState } from '../store/chains.ts'
import { type BodyOf, chainJournal, JournalWriter } from '../store/journal.ts'
import { lockHolder, takeLock } from '../store/lock.ts'
import { findRun, type Run, readState } from '../store/runs.ts'
import { forgetStop, stopRequest } from '../store/stop-request.ts'
import { attach } from './attach.ts'
import { type ChainPlan, trainChain } from './chain.ts'
import { stopRun } from './control.ts'
import type { Prepared } from './launch.ts'
import { isSilent, ownIdentity } from './supervisor-lock.ts'
import type { RunsWorld } from './world.ts'

/*
 * The driver of a chain: a process of its own that trains one stage after another, so that closing a terminal ends nothing. Killing
 * it ends nothing either: the run that trains goes on, and whoever looks at the chain next starts another driver.
 */

const pollMs = 250
const startPollMs = 30

type ChainLine = BodyOf<ChainEvent, 'seq' | 'ts'>

/** Drives a chain to its end and records it. Returns undefined where another driver does. */
export async function driveChain(folder: string, world: RunsWorld): Promise<ChainEnd | undefined> {
  const chain = openChain(folder)
  const own = ownIdentity()
  const lock = takeLock(chainFiles(folder).lock, own, (holder) => holdsOn(chain, holder, world))
  if (!('release' in lock)) return undefined
  const journal = new JournalWriter(chainFiles(folder).journal)
  try {
    forgetStop(chain)
    const tell = (line: ChainLine) => journal.append(line)
    tell({ event: 'driven', by: own })
    const end = await driven(chain, tell, { ...world, cwd: chain.identity.cwd, chosenEngine: chain.identity.engine ?? undefined })
    tell({ event: 'ended', ...end })
    return end
  } finally {
    journal.close()
    lock.release()
  }
}

async function driven(chain: Chain, tell: (line: ChainLine) => void, world: RunsWorld): Promise<ChainEnd> {
  const { recipe, stages, until } = chain.identity
  let stopped: ChainEnd | undefined
  let reached: Prepared | undefined
  try {
    const { end } = await trainChain(
      { recipe, stages, until: until ?? undefined },
      {
        before: async (stage, prepared) => {
          const request = stopRequest(chain)
          if (request) {
            stopped = {
              reason: 'stopped',
              message: `${request.by} stopped it before ${stage.name}`,
              hint: `stagewright continue ${chain.id}`,
            }
            return false
          }
          reached = prepared
          if (prepared.found === 'finished') {
            tell(stageLine(prepared))
            tell({ event: 'stageEnded', stage: stage.name, run: prepared.run.id, reason: 'completed' })
          }
          return true
        },
        follow: async (run, start) => {
          await start()
          if (reached) tell(stageLine(reached))
          const end = await endedUnderWatch(chain, run, world)
          if (end) tell({ event: 'stageEnded', stage: run.stage.name, run: run.id, reason: end.reason })
          return end
        },
      },
      world,
    )
    if (stopped) return stopped
    if (!end) return { reason: 'completed', message: 'every stage is done', hint: '' }
    return { reason: end.reason, message: end.message, hint: end.hint }
  } catch (cause) {
    if (cause instanceof UserError) return { reason: 'failed', message: `${cause.message} [${cause.code}]`, hint: cause.hint ?? '' }
    return { reason: 'failed', message: String(cause), hint: `see ${chainFiles(chain.folder).log}` }
  }
}

function stageLine({ run, found }: Prepared): ChainLine {
  return { event: 'stage', stage: run.stage.name, run: run.id, found, attempt: newestAttempt(readState(run))?.number ?? 0 }
}

/** Waits for the end of a run, and passes on to it what is asked of the chain. */
async function endedUnderWatch(chain: Chain, run: Run, world: RunsWorld): Promise<RunEnd | undefined> {
  const watch = new AbortController()
  const passedOn = passOnStop(chain, run, watch.signal, world)
  try {
    let end: RunEnd | undefined
    for await (const { event } of attach(run, world)) if (event.event === 'ended') end = runEnd(event)
    return end
  } finally {
    watch.abort()
    await passedOn
  }
}

async function passOnStop(chain: Chain, run: Run, signal: AbortSignal, world: RunsWorld): Promise<void> {
  let done: 'nothing' | 'stop' | 'kill' = 'nothing'
  while (!signal.aborted && done !== 'kill') {
    const request = stopRequest(chain)
    const wanted = request === undefined ? 'nothing' : request.kill ? 'kill' : 'stop'
    if (request && wanted !== done) {
      done = wanted
      await stopRun(run, request.kill ? { kill: true } : { reason: `asked of the chain by ${request.by}` }, world).catch(ignoreEnded)
    }
    await sleep(pollMs, undefined, { signal }).catch(() => undefined)
  }
}

function ignoreEnded(cause: unknown): void {
  if (!(cause instanceof UserError && cause.code === 'RUN_NOT_ACTIVE')) throw cause
}

/** Whether some process drives a chain now. */
export function isDriven(chain: Chain, world: RunsWorld): boolean {
  const holder = lockHolder(chainFiles(chain.folder).lock)
  return holder !== undefined && holdsOn(chain, holder, world)
}

/** On another host, a driver lives as long as the run it waits for is heard of. */
function holdsOn(chain: Chain, holder: ProcessIdentity, world: RunsWorld): boolean {
  if (!isElsewhere(holder)) return isAlive(holder)
  const current = readChainState(chain).stages.at(-1)
  return current !== undefined && !isSilent(readState(findRun(world.runsFolder, current.run)).lastHeardAt)
}

/** The chain of a plan: the one there is with the same stages, or a new folder. */
export function chainOf(plan: ChainPlan, world: RunsWorld): Chain {
  const what = {
    recipe: plan.recipe,
    cwd: world.cwd,
    stages: [...plan.stages],
    until: plan.until ?? null,
    engine: world.chosenEngine ?? null,
  }
  const same = listChains(world.runsFolder).findLast(({ identity }) => identity.contentHash === chainHash(what))
  return same ?? createChain({ runsFolder: world.runsFolder, now: world.now(), random: world.random }, what)
}

/**
 * Starts a driver unless one is at work, and returns the number of its drive once it has taken the chain up. Raises UserError
 * DRIVER_FAILED.
 */
export async function startChain(chain: Chain, world: RunsWorld): Promise<number> {
  const { drives, end } = readChainState(chain)
  // A driver that has recorded the end lets go in a moment.
  while (end && isDriven(chain, world)) await sleep(startPollMs)
  if (isDriven(chain, world)) return drives
  // What is missing is said here and not in a log.
  world.python()
  const { log } = chainFiles(chain.folder)
  const driver = await world.startDriver('_drive-chain', chain.folder, log)
  for (let isOver = false; readChainState(chain).drives === drives; isOver = driver.hasEnded()) {
    if (isOver && readChainState(chain).drives === drives) {
      const said = world.engine.logs(log, 3).join(' ')
      throw new UserError('DRIVER_FAILED', `${chain.id}: expected its driver to take it up, got: ${said || 'nothing'}`, {
        hint: `see ${log}`,
      })
    }
    await sleep(startPollMs)
  }
  return drives + 1
}

/** Takes up a chain that was left in the middle without a driver. */
export async function adoptChain(chain: Chain, world: RunsWorld): Promise<void> {
  const { drives, end } = readChainState(chain)
  if (drives > 0 && !end && !isDriven(chain, world)) await startChain(chain, world)
}

/** What a chain tells from its newest drive on. */
export type ChainNews =
  | { readonly stage: string; readonly run: Run; readonly found: FoundRun; readonly attempt: number }
  | { readonly end: ChainEnd }

/** The stages of a drive as they are reached, then its end. A driver that is gone is replaced. */
export async function* followChain(chain: Chain, drive: number, world: RunsWorld, signal?: AbortSignal): AsyncGenerator<ChainNews> {
  const reader = chainJournal(chainFiles(chain.folder).journal)
  let drives = 0
  while (!signal?.aborted) {
    for (const event of reader.next()) {
      if (event.event === 'driven') drives += 1
      if (drives < drive) continue
      if (event.event === 'stage') yield { ...event, run: findRun(world.runsFolder, event.run) }
      if (event.event === 'ended') {
        yield { end: event }
        return
      }
    }
    await adoptChain(chain, world)
    await sleep(pollMs, undefined, signal ? { signal } : {}).catch(() => undefined)
  }
}
