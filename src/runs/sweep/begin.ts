import { setTimeout as sleep } from 'node:timers/promises'
import { type LoadedSweep, sweepHash } from '../../config/sweep-file.ts'
import { UserError } from '../../domain/errors.ts'
import type { SweepEvent } from '../../domain/sweep/journal.ts'
import type { SweepFile } from '../../domain/sweep/schema.ts'
import { lockHolder } from '../../store/lock.ts'
import {
  createSweep,
  findSweep,
  limitsIn,
  limitsOf,
  listSweeps,
  readSweepState,
  type Sweep,
  sweepFiles,
  sweepJournal,
  writeLimits,
} from '../../store/sweeps.ts'
import type { RunsWorld } from '../world.ts'
import { drivesOn } from './driving-world.ts'

const pollMs = 100
const startPollMs = 30

export interface SweepChoice {
  /** Begins another sweep of the same name, with the finished points of the one before. */
  readonly fork?: boolean
}

/**
 * The sweep of a file: the one there is with the same content, whose limits are brought up to the file's, or a new one. A sweep is known
 * by its name. Raises UserError SWEEP_CHANGED where its space, stages or objective are others now.
 */
export function sweepFor(loaded: LoadedSweep, choice: SweepChoice, world: RunsWorld): Sweep {
  const stages = loaded.stages.map(({ stage }) => stage)
  const contentHash = sweepHash({ sweep: loaded.sweep, axes: loaded.axes, stages })
  const named = listSweeps(world.runsFolder).filter(({ identity }) => identity.sweep.name === loaded.sweep.name)
  const newest = named.at(-1)
  if (newest && !choice.fork) {
    if (newest.identity.contentHash !== contentHash || newest.identity.cwd !== world.cwd) throw changed(newest, loaded, world.cwd)
    const limits = limitsIn(loaded.sweep)
    if (JSON.stringify(limitsOf(newest)) !== JSON.stringify(limits)) writeLimits(newest, limits)
    return newest
  }
  return createSweep(
    { runsFolder: world.runsFolder, now: world.now(), random: world.random },
    {
      file: loaded.file,
      cwd: world.cwd,
      sweep: loaded.sweep,
      axes: loaded.axes.map((axis) => structuredClone(axis)) as Sweep['identity']['axes'],
      stages,
      contentHash,
      engine: world.chosenEngine ?? null,
      forkedFrom: newest?.id ?? null,
    },
  )
}

function changed({ id, identity }: Sweep, { sweep, axes, stages }: LoadedSweep, cwd: string): UserError {
  const parts: [string, unknown, unknown][] = [
    ['space', identity.axes, axes],
    ['stages', identity.stages, stages.map(({ stage }) => stage)],
    ...(['objective', 'sampler', 'pruner', 'seeds', 'derived', 'constraints', 'set', 'data', 'stage', 'deterministic'] as const).map(
      (key): [string, unknown, unknown] => [key, identity.sweep[key], sweep[key as keyof SweepFile]],
    ),
    ['current folder', identity.cwd, cwd],
  ]
  const others = parts.filter(([, before, now]) => JSON.stringify(before) !== JSON.stringify(now)).map(([name]) => name)
  return new UserError('SWEEP_CHANGED', `${id}: expected the sweep as it began, got another ${others.join(', ')}`, {
    hint: '--fork begins a new one with its finished points, or give the file another name',
  })
}

/** Whether some process drives a sweep now. */
export function isSweepDriven(sweep: Sweep): boolean {
  const holder = lockHolder(sweepFiles(sweep.folder).lock)
  return holder !== undefined && drivesOn(sweep, holder)
}

/**
 * Starts a driver unless one is at work, and returns the number of its drive once it has taken the sweep up. Raises UserError
 * DRIVER_FAILED.
 */
export async function startSweep(sweep: Sweep, world: RunsWorld): Promise<number> {
  const { drives } = readSweepState(sweep)
  if (isSweepDriven(sweep)) return Math.max(1, drives)
  // What is missing is said here and not in a log.
  world.python()
  const { log } = sweepFiles(sweep.folder)
  const driver = await world.startDriver('_drive-sweep', sweep.folder, log)
  for (let isOver = false; readSweepState(sweep).drives === drives; isOver = driver.hasEnded()) {
    if (isOver && readSweepState(sweep).drives === drives && !isSweepDriven(sweep)) {
      const said = world.engine.logs(log, 3).join(' ')
      throw new UserError('DRIVER_FAILED', `${sweep.id}: expected its driver to take it up, got: ${said || 'nothing'}`, {
        hint: `see ${log}`,
      })
    }
    await sleep(startPollMs)
  }
  return drives + 1
}

/** Events of a sweep from a drive on, to the end of the newest one. A driver that is gone is replaced. */
export async function* followSweep(sweep: Sweep, drive: number, world: RunsWorld, signal?: AbortSignal): AsyncGenerator<SweepEvent> {
  const reader = sweepJournal(sweep)
  let drives = 0
  let hasEnded = false
  while (!signal?.aborted) {
    const isGone = !isSweepDriven(sweep)
    for (const event of reader.next()) {
      if (event.event === 'driven') {
        drives += 1
        hasEnded = false
      }
      if (event.event === 'ended') hasEnded = true
      if (drives >= drive) yield event
    }
    if (drives >= drive && hasEnded) return
    if (isGone) await startSweep(sweep, world)
    await sleep(pollMs, undefined, signal ? { signal } : {}).catch(() => undefined)
  }
}

/** Takes up a sweep that was left in the middle without a driver. */
export async function adoptSweep(sweep: Sweep, world: RunsWorld): Promise<void> {
  const { drives, end } = readSweepState(sweep)
  if (drives > 0 && !end && !isSweepDriven(sweep)) await startSweep(sweep, world)
}

/** The sweep of an address, taken up where it was left without a driver. */
export async function openedSweep(address: string, world: RunsWorld): Promise<Sweep> {
  const sweep = findSweep(world.runsFolder, address)
  await adoptSweep(sweep, world)
  return sweep
}
