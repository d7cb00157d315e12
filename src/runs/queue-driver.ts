import { setTimeout as sleep } from 'node:timers/promises'
import { UserError } from '../domain/errors.ts'
import type { EndReason } from '../domain/protocol.ts'
import { hasWork, type Placement, type Queue, type QueueEntry, startable } from '../domain/queue/queue.ts'
import { newestAttempt, runEnd } from '../domain/run/state.ts'
import { bareSide } from '../domain/stage/origin.ts'
import { isAlive, isElsewhere } from '../engines/process-identity.ts'
import { takeLock } from '../store/lock.ts'
import { queueFiles, readQueue } from '../store/queue.ts'
import { findRun, type Run, readState } from '../store/runs.ts'
import { attach } from './attach.ts'
import { startFound } from './chain.ts'
import { stopRun } from './control.ts'
import { prepareRun } from './launch.ts'
import { queueResources, tellQueue } from './queue.ts'
import { ownIdentity } from './supervisor-lock.ts'
import type { RunsWorld } from './world.ts'

const pollMs = 200
/** A driver without work waits for more before it leaves. */
const idleMs = 1000

/**
 * Drives the queue of this machine until it has no work. Killing it ends nothing: runs go on by themselves, and whoever looks at the queue
 * next starts another driver. Returns at once where another one drives.
 */
export async function driveQueue(folder: string, world: RunsWorld): Promise<void> {
  const own = ownIdentity()
  // Whoever adds something and finds a driver that is just leaving relies on its last look.
  do {
    const lock = takeLock(queueFiles(folder).driverLock, own, (holder) => isElsewhere(holder) || isAlive(holder))
    if (!('release' in lock)) return
    try {
      await tellQueue(world, () => [{ event: 'driven', by: own }])
      await new Driver(folder, world).drive()
    } finally {
      lock.release()
    }
  } while (hasWork(readQueue(folder)))
}

class Driver {
  readonly #folder: string
  readonly #world: RunsWorld
  /** Entries that are followed, with what has been passed on to their runs. */
  readonly #followed = new Map<number, 'nothing' | 'stop' | 'kill'>()
  #failure: unknown

  constructor(folder: string, world: RunsWorld) {
    this.#folder = folder
    this.#world = world
  }

  async drive(): Promise<void> {
    for (let idleSince = performance.now(); performance.now() - idleSince < idleMs; await sleep(pollMs)) {
      if (this.#failure !== undefined) throw this.#failure
      const queue = readQueue(this.#folder)
      if (hasWork(queue)) idleSince = performance.now()
      for (const entry of queue.entries) if (entry.state === 'running') this.#follow(entry)
      for (const placement of startable(queue, await queueResources(queue, this.#world))) await this.#start(placement, queue)
    }
  }

  async #start({ entry, gpus }: Placement, queue: Queue): Promise<void> {
    const { id, stage, recipe, cwd } = entry
    const devices = entry.needs.gpus > 0 ? { devices: [...gpus] } : {}
    const world: RunsWorld = { ...this.#world, cwd, chosenEngine: { formatVersion: 1, kind: 'local', ...devices } }
    const side = bareSide(stage.name, stage)
    const from = recipe === null ? null : { file: recipe, stage: stage.name }
    try {
      const prepared = await prepareRun(side, { verb: 'train', earlier: this.#earlier(entry, queue), recipe: from, reuse: true }, world)
      const { run, found } = prepared
      await startFound(prepared, world)
      const attempt = newestAttempt(readState(run))?.number ?? 0
      await tellQueue(world, () => [{ event: 'started', id, run: run.id, attempt, gpus: [...gpus] }])
      if (found === 'finished') await this.#ended(id, 'completed', `done already by ${run.id}`)
    } catch (cause) {
      await this.#ended(id, 'failed', cause instanceof UserError ? `${cause.message} [${cause.code}]` : String(cause))
    }
  }

  /** Runs of the entries before this one, for `stage:NAME`. */
  #earlier(entry: QueueEntry, queue: Queue): Map<string, Run> {
    const before = (ids: readonly number[]): QueueEntry[] =>
      queue.entries.filter(({ id }) => ids.includes(id)).flatMap((each) => [...before(each.after), each])
    const runs = before(entry.after).flatMap(({ stage, run }) => (run === undefined ? [] : [[stage.name, run] as const]))
    return new Map(runs.map(([name, run]) => [name, findRun(this.#world.runsFolder, run)]))
  }

  #follow(entry: QueueEntry): void {
    const { id, run: runId, attempt, cancel } = entry
    if (runId === undefined) return
    const run = findRun(this.#world.runsFolder, runId)
    if (!this.#followed.has(id)) {
      this.#followed.set(id, 'nothing')
      this.#toItsEnd(id, run, attempt ?? 1).catch((cause: unknown) => {
        this.#failure = cause
      })
    }
    const wanted = cancel ? (cancel.kill ? 'kill' : 'stop') : 'nothing'
    if (wanted === 'nothing' || this.#followed.get(id) === wanted) return
    this.#followed.set(id, wanted)
    const how = cancel?.kill ? { kill: true } : { reason: `asked of the queue by ${cancel?.by}` }
    stopRun(run, how, this.#world).catch((cause: unknown) => {
      if (!(cause instanceof UserError && cause.code === 'RUN_NOT_ACTIVE')) this.#failure = cause
    })
  }

  async #toItsEnd(id: number, run: Run, fromAttempt: number): Promise<void> {
    for await (const { attempt, event } of attach(run, this.#world, { fromAttempt })) {
      if (event.event !== 'ended' || attempt < fromAttempt) continue
      const { reason, message } = runEnd(event)
      await this.#ended(id, reason, message)
    }
  }

  async #ended(id: number, reason: EndReason, message: string): Promise<void> {
    await tellQueue(this.#world, () => [{ event: 'ended', id, reason, message }])
    this.#followed.delete(id)
  }
}
