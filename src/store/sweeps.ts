import { mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import { UserError } from '../domain/errors.ts'
import { formatVersion } from '../domain/protocol.ts'
import { type SweepEvent, type SweepIdentity, sweepEvent, sweepIdentity } from '../domain/sweep/journal.ts'
import { sweepSchema } from '../domain/sweep/schema.ts'
import { foldSweep, type SweepState } from '../domain/sweep/state.ts'
import { makeFolder, writeAtomically } from './files.ts'
import { idsIn, openAll, stamp } from './ids.ts'
import { JournalReader } from './journal.ts'
import type { RunPlace } from './runs.ts'

const identityName = 'sweep.json'
const limitsSchema = sweepSchema.pick({ budget: true, parallel: true, retries: true })

/** What may change while a sweep stays the same: how much it may cost in all, trials at a time, how often a trial is continued. */
export type Limits = z.output<typeof limitsSchema>

/** One sweep folder under `runs/sweeps/`. */
export interface Sweep {
  readonly id: string
  readonly folder: string
  readonly identity: SweepIdentity
}

/** Paths of a sweep folder. */
export const sweepFiles = (folder: string) => ({
  identity: join(folder, identityName),
  journal: join(folder, 'sweep.jsonl'),
  study: join(folder, 'study.log'),
  lock: join(folder, 'driver.lock'),
  limits: join(folder, 'limits.json'),
  log: join(folder, 'driver.log'),
  pool: join(folder, 'pool.log'),
})

function sweepsFolder(runsFolder: string): string {
  return join(runsFolder, 'sweeps')
}

/** Makes a sweep folder. */
export function createSweep(place: Omit<RunPlace, 'socketFolder'>, what: Omit<SweepIdentity, 'formatVersion' | 'id' | 'createdAt'>): Sweep {
  const id = `${stamp(place.now)}-${what.sweep.name}-${place.random(4)}`
  const folder = join(sweepsFolder(place.runsFolder), id)
  makeFolder(sweepsFolder(place.runsFolder))
  mkdirSync(folder, { mode: 0o700 })
  const identity: SweepIdentity = { formatVersion, id, createdAt: place.now.toISOString(), ...what }
  writeAtomically(sweepFiles(folder).identity, `${JSON.stringify(identity, null, 1)}\n`)
  return { id, folder, identity }
}

/** Opens a sweep folder. Raises UserError SWEEP_INVALID where it is not one. */
export function openSweep(folder: string): Sweep {
  try {
    const identity = sweepIdentity.parse(JSON.parse(readFileSync(sweepFiles(folder).identity, 'utf8')))
    return { id: identity.id, folder, identity }
  } catch (cause) {
    const reason = cause instanceof z.ZodError ? cause.issues[0]?.message : (cause as Error).message
    throw new UserError('SWEEP_INVALID', `${folder}: expected the folder of a sweep, got ${reason}`, {
      cause,
      hint: 'stagewright sweep show',
    })
  }
}

/** Every sweep of a runs folder, oldest first. Folders that are none are left alone. */
export function listSweeps(runsFolder: string): Sweep[] {
  const folder = sweepsFolder(runsFolder)
  return openAll(folder, idsIn(folder, identityName), openSweep)
}

/** The sweep with an id, a unique beginning of one, a name (the newest of it), or `latest`. Raises UserErrors SWEEP_UNKNOWN and SWEEP_AMBIGUOUS. */
export function findSweep(runsFolder: string, address: string): Sweep {
  const sweeps = listSweeps(runsFolder)
  const named = sweeps.findLast(({ id, identity }) => address === 'latest' || id === address || identity.sweep.name === address)
  if (named) return named
  const [only, ...others] = address === '' ? [] : sweeps.filter(({ id }) => id.startsWith(address))
  if (only === undefined) {
    const got = sweeps.length === 0 ? `none under ${runsFolder}` : 'no such sweep'
    throw new UserError('SWEEP_UNKNOWN', `${address}: expected the id or the name of a sweep, got ${got}`, {
      hint: sweeps.length === 0 ? 'stagewright sweep FILE begins one' : `the newest is ${sweeps.at(-1)?.id}`,
    })
  }
  if (others.length > 0)
    throw new UserError('SWEEP_AMBIGUOUS', `${address}: expected one sweep, got ${[only, ...others].map(({ id }) => id).join(', ')}`, {
      hint: 'write more of the id',
    })
  return only
}

/** Reader of a sweep's journal. */
export function sweepJournal(sweep: Sweep): JournalReader<SweepEvent> {
  return new JournalReader(sweepFiles(sweep.folder).journal, sweepEvent)
}

/** How a sweep stands by its journal. */
export function readSweepState(sweep: Sweep): SweepState {
  return foldSweep(sweepJournal(sweep).next())
}

/** The limits of a sweep: what was said last. */
export function limitsOf(sweep: Sweep): Limits {
  try {
    return limitsSchema.parse(JSON.parse(readFileSync(sweepFiles(sweep.folder).limits, 'utf8')))
  } catch {
    return limitsIn(sweep.identity.sweep)
  }
}

/** The limits a sweep file sets. */
export function limitsIn({ budget, parallel, retries }: Limits): Limits {
  return { budget, parallel, retries }
}

/** Other limits; a driver at work sees them before it begins the next trial. */
export function writeLimits(sweep: Sweep, limits: Limits): void {
  writeAtomically(sweepFiles(sweep.folder).limits, JSON.stringify(limits))
}
