import { UserError } from '../domain/errors.ts'
import { type Queue, type QueueEntry, type Resources, waitsFor } from '../domain/queue/queue.ts'
import { parseAddress } from '../runs/address.ts'
import { resolveSides } from '../runs/addresses.ts'
import { withData } from '../runs/chain.ts'
import { type Addition, addToQueue, adoptQueue, open, type QueueLine, queueResources, tellQueue } from '../runs/queue.ts'
import { tinyStage } from '../runs/tiny.ts'
import type { RunsWorld } from '../runs/world.ts'
import { queueFolder, readQueue } from '../store/queue.ts'
import { runsFolderOf, upstreamCheckoutOf } from './folders.ts'
import type { RunOptions, TrainingWorld } from './run-world.ts'
import { paintFor, writeJson, writeLines } from './terminal.ts'

/** Arguments of the queue's commands; each fills those it has. */
export interface QueueArguments extends RunOptions {
  id: number
  recipe: string
  data: string | undefined
  set: string[]
  tiny: boolean
  after: number[]
  priority?: number
  share: boolean
  before?: number
  kill: boolean
  json: boolean
  gpus?: string
  cores?: number
  memory?: number
  detect: boolean
}

const formatVersion = 1
const gibibyte = 2 ** 30

async function opened(args: RunOptions, world: TrainingWorld): Promise<RunsWorld> {
  return world.runsWorld({ runsFolder: runsFolderOf(args.runs, world), pythonEnv: args.pythonEnv })
}

export async function queueAdd(args: QueueArguments, world: TrainingWorld): Promise<void> {
  const runs = await opened(args, world)
  runs.python()
  const parsed = parseAddress(args.recipe)
  const context = { cwd: world.cwd, runsFolder: runs.runsFolder, upstreamCheckout: upstreamCheckoutOf(undefined, world), set: args.set }
  const sides = (await resolveSides(args.recipe, context)).map((side) => withData(side, args.data))
  const additions = sides.map(
    (side, place): Addition => ({
      side: args.tiny ? { ...side, stage: tinyStage(side).stage } : side,
      recipe: parsed.kind === 'recipe' ? parsed.file : null,
      after: place === 0 ? args.after : ['previous'],
    }),
  )
  const ids = await addToQueue(additions, { priority: args.priority ?? 0, share: args.share }, runs)
  const added = ids.map((id, place) => ({ id, stage: sides[place]?.stage.name ?? '' }))
  if (args.json) writeJson(world.stdout, { formatVersion, added })
  else
    writeLines(
      world.stdout,
      added.map(({ id, stage }) => `${id}  ${stage}`),
    )
  await adoptQueue(runs)
}

export async function queueCancel(args: QueueArguments, world: TrainingWorld): Promise<void> {
  const word = await told(args, ['queued', 'held', 'running'], () => ({ event: 'cancelled', id: args.id, kill: args.kill, by: '' }), world)
  world.stdout.write(`${args.id}: ${word === 'running' ? (args.kill ? 'is killed' : 'stops at the next step') : 'taken out'}\n`)
}

export async function queueHold(args: QueueArguments, world: TrainingWorld): Promise<void> {
  await told(args, ['queued'], () => ({ event: 'held', id: args.id, by: '' }), world)
  world.stdout.write(`${args.id}: held\n`)
}

export async function queueRelease(args: QueueArguments, world: TrainingWorld): Promise<void> {
  await told(args, ['held'], () => ({ event: 'released', id: args.id, by: '' }), world)
  world.stdout.write(`${args.id}: released\n`)
}

export async function queueMove(args: QueueArguments, world: TrainingWorld): Promise<void> {
  const change = (queue: Queue): QueueLine => {
    if (args.before !== undefined) open(queue, args.before, ['queued', 'held'])
    return { event: 'moved', id: args.id, before: args.before ?? null, priority: args.priority ?? null, by: '' }
  }
  await told(args, ['queued', 'held'], change, world)
  world.stdout.write(`${args.id}: moved\n`)
}

/** Writes one line about an entry, where it stands as it must; returns how it stood. */
async function told(
  args: QueueArguments,
  states: readonly QueueEntry['state'][],
  line: (queue: Queue) => QueueLine,
  world: TrainingWorld,
): Promise<QueueEntry['state']> {
  const runs = await opened(args, world)
  let state: QueueEntry['state'] = 'queued'
  await tellQueue(runs, (queue) => {
    state = open(queue, args.id, states).state
    return [{ ...line(queue), by: runs.actor } as QueueLine]
  })
  await adoptQueue(runs)
  return state
}

export async function queueSlots(args: QueueArguments, world: TrainingWorld): Promise<void> {
  const runs = await opened(args, world)
  const now = await queueResources(readQueue(queueFolder(runs.runsFolder)), runs)
  const isAsked = args.gpus !== undefined || args.cores !== undefined || args.memory !== undefined
  if (isAsked || args.detect) {
    const resources = args.detect ? null : await wantedResources(args, now, runs)
    await tellQueue(runs, () => [{ event: 'slots', resources, by: runs.actor }])
    await adoptQueue(runs)
  }
  const resources = await queueResources(readQueue(queueFolder(runs.runsFolder)), runs)
  if (args.json) return writeJson(world.stdout, { formatVersion, ...resources })
  const gpus = resources.gpus.map(({ name, memoryBytes }) => `${name} (${Math.round(memoryBytes / gibibyte)} GiB)`).join(', ') || 'none'
  world.stdout.write(`GPUs ${gpus}\ncores ${resources.cores}\nmemory ${(resources.memoryBytes / gibibyte).toFixed(1)} GiB\n`)
}

async function wantedResources({ gpus, cores, memory }: QueueArguments, now: Resources, runs: RunsWorld): Promise<Resources> {
  const there = (await runs.resources()).gpus
  const names = gpus === undefined ? undefined : gpus === 'none' ? [] : gpus.split(',').map((name) => name.trim())
  const unknown = names?.find((name) => !there.some((gpu) => gpu.name === name))
  if (unknown !== undefined) {
    throw new UserError(
      'QUEUE_SLOTS',
      `--gpus ${gpus}: expected some of ${there.map(({ name }) => name).join(', ') || 'no GPU'}, got ${unknown}`,
      {
        hint: 'nvidia-smi lists them',
      },
    )
  }
  if ([cores, memory].some((value) => value !== undefined && !(value > 0)) || (cores !== undefined && !Number.isInteger(cores))) {
    throw new UserError('QUEUE_SLOTS', 'expected a whole number of cores and GiB of memory above 0', {
      hint: 'stagewright queue slots --help',
    })
  }
  return {
    gpus: names ? there.filter(({ name }) => names.includes(name)) : now.gpus,
    cores: cores ?? now.cores,
    memoryBytes: memory === undefined ? now.memoryBytes : Math.round(memory * gibibyte),
  }
}

export async function queueList(args: QueueArguments, world: TrainingWorld): Promise<void> {
  const runs = await opened(args, world)
  await adoptQueue(runs)
  const queue = readQueue(queueFolder(runs.runsFolder))
  if (args.json) {
    const entries = queue.entries.map(({ stage, end, cancel, run, ...rest }) => ({
      ...rest,
      stage: stage.name,
      run: run ?? null,
      end: end ?? null,
      cancel: cancel ?? null,
    }))
    return writeJson(world.stdout, { formatVersion, entries })
  }
  if (queue.entries.length === 0) {
    world.stdout.write('nothing was added: stagewright queue add RECIPE\n')
    return
  }
  const { dim } = paintFor(world.stdout, world.env)
  world.stdout.write(dim('  id  priority  stage                state\n'))
  for (const entry of queue.entries) {
    const { id, priority, stage } = entry
    world.stdout.write(`${String(id).padStart(4)}  ${String(priority).padStart(8)}  ${stage.name.padEnd(20)} ${wordFor(entry, queue)}\n`)
  }
}

function wordFor(entry: QueueEntry, queue: Queue): string {
  const { state, run, end, gpus } = entry
  if (state === 'running') return `trains as ${run}${gpus.length > 0 ? ` on GPU ${gpus.join(', ')}` : ''}`
  if (state === 'ended') return `${end?.reason}${run === undefined ? `: ${end?.message}` : ` (${run})`}`
  if (state === 'queued') return `waits ${waitsFor(entry, queue) ?? 'for its turn'}`
  return state
}
