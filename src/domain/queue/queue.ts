import { z } from 'zod'
import { endReasons, formatVersion, processIdentity } from '../protocol.ts'
import { stageSchema } from '../stage/schema.ts'

/*
 * The queue of this machine: stages that wait for their turn. Everything that happens to it is a line of its journal; how it stands is
 * a fold over them.
 */

const lineHead = { seq: z.int().nonnegative(), ts: z.number() }
const count = z.int().nonnegative()

/** What an entry takes of the machine. */
export const needs = z.strictObject({
  /** GPUs, one per rank; 0 trains on the CPU. */
  gpus: count,
  /** Cores; null takes them all. */
  cores: z.int().positive().nullable(),
  /** Bytes per rank as estimated; on a GPU those of its memory, else of the machine's. Null is not known: such an entry shares nothing. */
  memoryBytes: count.nullable(),
})
export type Needs = z.output<typeof needs>

/** What the machine has. */
export const resources = z.strictObject({
  /** Names as CUDA_VISIBLE_DEVICES takes them, with the bytes of each. */
  gpus: z.array(z.strictObject({ name: z.string(), memoryBytes: count })),
  cores: z.int().positive(),
  memoryBytes: count,
})
export type Resources = z.output<typeof resources>

const entry = z.strictObject({
  id: z.int().positive(),
  stage: stageSchema,
  /** File the stage comes from; null for a stage of the catalogue. */
  recipe: z.string().nullable(),
  /** Folder that relative paths in it start at. */
  cwd: z.string(),
  needs,
  priority: z.int(),
  /** Entries that must have completed before. */
  after: z.array(z.int().positive()),
})

/** Everything that is written to `queue.jsonl`. */
export const queueEvent = z.discriminatedUnion('event', [
  z.looseObject({ ...lineHead, event: z.literal('opened'), formatVersion: z.literal(formatVersion) }),
  z.looseObject({ ...lineHead, event: z.literal('driven'), by: processIdentity }),
  z.looseObject({ ...lineHead, event: z.literal('added'), entry, by: z.string() }),
  z.looseObject({ ...lineHead, event: z.literal('slots'), resources: resources.nullable(), by: z.string() }),
  z.looseObject({ ...lineHead, event: z.literal('held'), id: count, by: z.string() }),
  z.looseObject({ ...lineHead, event: z.literal('released'), id: count, by: z.string() }),
  /** Before another entry of the same priority, or behind all of them; with another priority where one is given. */
  z.looseObject({
    ...lineHead,
    event: z.literal('moved'),
    id: count,
    before: count.nullable(),
    priority: z.int().nullable(),
    by: z.string(),
  }),
  z.looseObject({ ...lineHead, event: z.literal('cancelled'), id: count, kill: z.boolean(), by: z.string() }),
  z.looseObject({ ...lineHead, event: z.literal('started'), id: count, run: z.string(), attempt: count, gpus: z.array(z.string()) }),
  z.looseObject({ ...lineHead, event: z.literal('ended'), id: count, reason: z.enum(endReasons), message: z.string() }),
])
export type QueueEvent = z.output<typeof queueEvent>

export interface QueueEntry extends z.output<typeof entry> {
  readonly state: 'queued' | 'held' | 'running' | 'ended' | 'cancelled'
  readonly run: string | undefined
  readonly attempt: number | undefined
  /** GPUs it has or had. */
  readonly gpus: readonly string[]
  readonly end: { readonly reason: (typeof endReasons)[number]; readonly message: string } | undefined
  /** Somebody's wish that it ends. */
  readonly cancel: { readonly by: string; readonly kill: boolean } | undefined
}

export interface Queue {
  /** In the order of their turns: those that have ended keep their place. */
  readonly entries: readonly QueueEntry[]
  /** What the machine has, where somebody said so. */
  readonly resources: Resources | undefined
  readonly drives: number
}

const goodEnds: readonly string[] = ['completed', 'plateau', 'data-exhausted']

/** How a queue stands by its journal. */
export function foldQueue(events: readonly QueueEvent[]): Queue {
  return events.reduce(folded, { entries: [], resources: undefined, drives: 0 })
}

function folded(queue: Queue, event: QueueEvent): Queue {
  switch (event.event) {
    case 'opened':
      return queue
    case 'driven':
      return { ...queue, drives: queue.drives + 1 }
    case 'slots':
      return { ...queue, resources: event.resources ?? undefined }
    case 'added': {
      const added: QueueEntry = {
        ...event.entry,
        state: 'queued',
        run: undefined,
        attempt: undefined,
        gpus: [],
        end: undefined,
        cancel: undefined,
      }
      return { ...queue, entries: placed([...queue.entries, added]) }
    }
    case 'held':
      return changed(queue, event.id, ({ state }) => (state === 'queued' ? { state: 'held' } : {}))
    case 'released':
      return changed(queue, event.id, ({ state }) => (state === 'held' ? { state: 'queued' } : {}))
    case 'moved':
      return moved(queue, event)
    case 'cancelled':
      return changed(queue, event.id, ({ state }) =>
        state === 'queued' || state === 'held' ? { state: 'cancelled' } : { cancel: { by: event.by, kill: event.kill } },
      )
    case 'started':
      return changed(queue, event.id, () => ({ state: 'running', run: event.run, attempt: event.attempt, gpus: event.gpus }))
    case 'ended':
      return changed(queue, event.id, () => ({ state: 'ended', end: { reason: event.reason, message: event.message } }))
    default:
      return event satisfies never
  }
}

function changed(queue: Queue, id: number, change: (entry: QueueEntry) => Partial<QueueEntry>): Queue {
  return { ...queue, entries: queue.entries.map((each) => (each.id === id ? { ...each, ...change(each) } : each)) }
}

function moved(queue: Queue, { id, before, priority }: Extract<QueueEvent, { event: 'moved' }>): Queue {
  const found = queue.entries.find((each) => each.id === id)
  if (!found) return queue
  const rest = queue.entries.filter((each) => each !== found)
  const at = before === null ? -1 : rest.findIndex((each) => each.id === before)
  const target = rest[at]
  const entry = { ...found, priority: priority ?? target?.priority ?? found.priority }
  return { ...queue, entries: placed(at === -1 ? [...rest, entry] : [...rest.slice(0, at), entry, ...rest.slice(at)]) }
}

/** By priority, the highest first; entries of the same one keep their order. */
function placed(entries: readonly QueueEntry[]): QueueEntry[] {
  return [...entries].sort((a, b) => b.priority - a.priority)
}

/** Why an entry does not start although there may be room. */
export function waitsFor(entry: QueueEntry, queue: Queue): string | undefined {
  for (const id of entry.after) {
    const first = queue.entries.find((each) => each.id === id)
    if (first && isGoodEnd(first)) continue
    if (first === undefined || first.state === 'cancelled' || first.state === 'ended') return `${id} did not complete`
    return `after ${id}`
  }
  return undefined
}

/** Whether there is something for a driver to do, now or once something else has ended; what is held waits for a person. */
export function hasWork(queue: Queue): boolean {
  return queue.entries.some((entry) => entry.state === 'running' || willStart(entry, queue))
}

function willStart(entry: QueueEntry, queue: Queue): boolean {
  const isOnTheWay = (id: number) => {
    const first = queue.entries.find((each) => each.id === id)
    return first !== undefined && (first.state === 'running' || isGoodEnd(first) || willStart(first, queue))
  }
  return entry.state === 'queued' && entry.after.every(isOnTheWay)
}

function isGoodEnd({ state, end }: QueueEntry): boolean {
  return state === 'ended' && goodEnds.includes(end?.reason ?? '')
}

/** A place for an entry whose turn it is: the GPUs it gets, none on the CPU. */
export interface Placement {
  readonly entry: QueueEntry
  readonly gpus: readonly string[]
}

/**
 * Entries that can start now, in their order. One that does not fit holds the later ones back only where they would take what it waits
 * for: a CPU stage passes a GPU stage, a GPU stage never passes another that was there first. GPUs and memory are shared as far as
 * estimates say that it fits, with a tenth to spare; an entry without an estimate shares nothing.
 */
export function startable(queue: Queue, machine: Resources): Placement[] {
  const room = new Room(machine)
  for (const { needs: wanted, gpus, state } of queue.entries) if (state === 'running') room.take(wanted, gpus)
  const placements: Placement[] = []
  const blocked = { gpu: false, cpu: false }
  for (const entry of queue.entries) {
    if (entry.state !== 'queued' || waitsFor(entry, queue) !== undefined) continue
    const kind = entry.needs.gpus > 0 ? 'gpu' : 'cpu'
    const gpus = blocked[kind] ? undefined : room.find(entry.needs)
    if (!gpus) {
      blocked[kind] = true
      continue
    }
    room.take(entry.needs, gpus)
    placements.push({ entry, gpus })
  }
  return placements
}

/** Whether an entry could ever start here. */
export function fitsAlone(wanted: Needs, machine: Resources): boolean {
  return new Room(machine).find(wanted) !== undefined
}

const usableShare = 0.9

class Room {
  readonly #machine: Resources
  readonly #gpuBytes: Map<string, number>
  #cores: number
  #bytes: number

  constructor(machine: Resources) {
    this.#machine = machine
    this.#gpuBytes = new Map(machine.gpus.map(({ name, memoryBytes }) => [name, memoryBytes * usableShare]))
    this.#cores = machine.cores
    this.#bytes = machine.memoryBytes * usableShare
  }

  /** GPUs for an entry, the emptiest first; undefined where there is no room. */
  find({ gpus, cores, memoryBytes }: Needs): string[] | undefined {
    if (gpus > 0) {
      const free = [...this.#gpuBytes].filter(([name, left]) => left >= (memoryBytes ?? this.#whole(name)) && left > 0)
      const names = free.sort(([, a], [, b]) => b - a).map(([name]) => name)
      return names.length >= gpus ? names.slice(0, gpus) : undefined
    }
    const isFree = this.#cores >= (cores ?? this.#machine.cores) && this.#bytes >= (memoryBytes ?? 0)
    return isFree ? [] : undefined
  }

  take({ gpus, cores, memoryBytes }: Needs, names: readonly string[]): void {
    if (gpus > 0) for (const name of names) this.#gpuBytes.set(name, (this.#gpuBytes.get(name) ?? 0) - (memoryBytes ?? this.#whole(name)))
    else {
      this.#cores -= cores ?? this.#machine.cores
      this.#bytes -= memoryBytes ?? 0
    }
  }

  #whole(name: string): number {
    return (this.#machine.gpus.find((gpu) => gpu.name === name)?.memoryBytes ?? 0) * usableShare
  }
}
