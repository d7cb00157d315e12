import { setTimeout as sleep } from 'node:timers/promises'
import { UserError } from '../domain/errors.ts'
import type { ProcessIdentity } from '../domain/protocol.ts'
import { fitsAlone, hasWork, type Needs, type Queue, type QueueEntry, type QueueEvent, type Resources } from '../domain/queue/queue.ts'
import type { StageSide } from '../domain/stage/origin.ts'
import type { Stage } from '../domain/stage/schema.ts'
import { isAlive, isElsewhere } from '../engines/process-identity.ts'
import type { BodyOf } from '../store/journal.ts'
import { lockHolder } from '../store/lock.ts'
import { changeQueue, queueFiles, queueFolder, readQueue } from '../store/queue.ts'
import { planStage } from './plan.ts'
import { ownIdentity } from './supervisor-lock.ts'
import type { RunsWorld } from './world.ts'

/*
 * The queue of this machine: what may be asked of it. A driver of its own starts the stages; every command that looks at the queue starts
 * one where it is missing.
 */

const startPollMs = 30

export type QueueLine = BodyOf<QueueEvent, 'seq' | 'ts'>

/** A process on another host is never judged from here. */
const lives = (holder: ProcessIdentity) => isElsewhere(holder) || isAlive(holder)

/** Adds lines to the journal of this machine's queue, made from how it stands. */
export async function tellQueue(world: Pick<RunsWorld, 'runsFolder'>, change: (queue: Queue) => readonly QueueLine[]): Promise<void> {
  await changeQueue(queueFolder(world.runsFolder), ownIdentity(), lives, change)
}

/** What the queue may use: as somebody said, or what the machine has. */
export async function queueResources(queue: Queue, world: RunsWorld): Promise<Resources> {
  return queue.resources ?? (await world.resources())
}

export interface Addition {
  readonly side: StageSide
  readonly recipe: string | null
  /** Entries that must complete before; `previous` is the one added just before this one. */
  readonly after: readonly (number | 'previous')[]
}

export interface AddOptions {
  readonly priority: number
  /** Whether entries may share a GPU, or the machine's memory, as far as the estimate says that they fit. */
  readonly share: boolean
}

/**
 * Adds stages in their order and returns their numbers. Raises UserErrors QUEUE_UNKNOWN for an entry there is not, and QUEUE_TOO_LARGE
 * for a stage that would never fit.
 */
export async function addToQueue(additions: readonly Addition[], { priority, share }: AddOptions, world: RunsWorld): Promise<number[]> {
  const machine = await queueResources(readQueue(queueFolder(world.runsFolder)), world)
  const needed: Needs[] = []
  for (const { side } of additions) {
    const needs = needsOf(side.stage, machine, share ? (await planStage(side, world)).answers.memory.total : null)
    if (!fitsAlone(needs, machine)) throw tooLarge(side.stage, needs, machine)
    needed.push(needs)
  }
  const ids: number[] = []
  await tellQueue(world, (queue) => {
    const first = Math.max(0, ...queue.entries.map(({ id }) => id)) + 1
    return additions.map(({ side, recipe, after }, place) => {
      const id = first + place
      ids.push(id)
      const before = after.map((each) => (each === 'previous' ? id - 1 : found(queue, each).id))
      const entry = { id, stage: side.stage, recipe, cwd: world.cwd, needs: needed[place] as Needs, priority, after: before }
      return { event: 'added', entry, by: world.actor } as const
    })
  })
  return ids
}

function needsOf({ memory, parallel }: Stage, machine: Resources, memoryBytes: number | null): Needs {
  if (parallel.nodes > 1) {
    throw new UserError('ENGINE_NODES', `parallel.nodes: expected one machine for the queue of this one, got ${parallel.nodes}`, {
      hint: 'train with --engine slurm',
    })
  }
  const onGpu = memory.device === 'cuda' || (memory.device === 'auto' && machine.gpus.length > 0)
  if (onGpu) return { gpus: parallel.processes, cores: null, memoryBytes }
  const cores = memory.threads === null ? null : memory.threads * parallel.processes
  return { gpus: 0, cores, memoryBytes: memoryBytes === null ? null : memoryBytes * parallel.processes }
}

function tooLarge(stage: Stage, needs: Needs, machine: Resources): UserError {
  const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`
  const wanted = needs.gpus > 0 ? `${needs.gpus} GPUs` : `${needs.cores ?? machine.cores} cores`
  const memory = needs.memoryBytes === null ? '' : ` with ${gib(needs.memoryBytes)}`
  return new UserError(
    'QUEUE_TOO_LARGE',
    `${stage.name}: expected a stage that fits ${machine.gpus.length} GPUs, ${machine.cores} cores and ${gib(machine.memoryBytes)}, got one that needs ${wanted}${memory}`,
    { hint: 'lower parallel.processes or memory.threads, or tell the queue what it may use: stagewright queue slots' },
  )
}

/** An entry by its number. Raises UserError QUEUE_UNKNOWN. */
export function found(queue: Queue, id: number): QueueEntry {
  const entry = queue.entries.find((each) => each.id === id)
  if (entry) return entry
  throw new UserError('QUEUE_UNKNOWN', `${id}: expected the number of a queue entry, got none of that number`, {
    hint: '`stagewright queue list` shows them',
  })
}

/** An entry that has not ended. Raises UserErrors QUEUE_UNKNOWN and QUEUE_OVER. */
export function open(queue: Queue, id: number, states: readonly QueueEntry['state'][]): QueueEntry {
  const entry = found(queue, id)
  if (states.includes(entry.state)) return entry
  throw new UserError('QUEUE_OVER', `${id}: expected an entry that is ${states.join(' or ')}, got one that is ${entry.state}`, {
    hint: '`stagewright queue list` shows them',
    exitCode: 1,
  })
}

/** Starts a driver where there is work for one and none is at it. Raises UserError DRIVER_FAILED. */
export async function adoptQueue(world: RunsWorld): Promise<void> {
  const folder = queueFolder(world.runsFolder)
  const { driverLock, log } = queueFiles(folder)
  const { drives, ...queue } = readQueue(folder)
  const holder = lockHolder(driverLock)
  if (!hasWork({ drives, ...queue }) || (holder && lives(holder))) return
  const driver = await world.startDriver('_drive-queue', folder, log)
  while (readQueue(folder).drives === drives) {
    if (driver.hasEnded()) {
      if (readQueue(folder).drives > drives) return
      const now = lockHolder(driverLock)
      if (now && lives(now)) return
      const said = world.engine.logs(log, 3).join(' ')
      throw new UserError('DRIVER_FAILED', `queue: expected its driver to take it up, got: ${said || 'nothing'}`, { hint: `see ${log}` })
    }
    await sleep(startPollMs)
  }
}
