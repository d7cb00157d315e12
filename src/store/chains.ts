import { createHash } from 'node:crypto'
import { mkdirSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { z } from 'zod'
import { type ChainIdentity, type ChainState, chainIdentity, foldChain } from '../domain/chain.ts'
import { UserError } from '../domain/errors.ts'
import { formatVersion } from '../domain/protocol.ts'
import { makeFolder, writeAtomically } from './files.ts'
import { idsIn, openAll, stamp } from './ids.ts'
import { chainJournal } from './journal.ts'
import type { RunPlace } from './runs.ts'

const identityName = 'chain.json'

/** One chain folder under `runs/chains/`. */
export interface Chain {
  readonly id: string
  readonly folder: string
  readonly identity: ChainIdentity
}

/** Paths of a chain folder. */
export const chainFiles = (folder: string) => ({
  identity: join(folder, identityName),
  journal: join(folder, 'chain.jsonl'),
  lock: join(folder, 'driver.lock'),
  log: join(folder, 'driver.log'),
})

/** Where the chains of a runs folder lie. */
function chainsFolder(runsFolder: string): string {
  return join(runsFolder, 'chains')
}

/** Makes a chain folder. */
export function createChain(
  place: Omit<RunPlace, 'socketFolder'>,
  what: Omit<ChainIdentity, 'formatVersion' | 'id' | 'createdAt' | 'contentHash'>,
): Chain {
  const name = basename(what.recipe).replace(/\.ya?ml$/, '')
  const id = `${stamp(place.now)}-${name.replaceAll(/[^a-z0-9._-]/gi, '-')}-${place.random(4)}`
  const folder = join(chainsFolder(place.runsFolder), id)
  makeFolder(chainsFolder(place.runsFolder))
  mkdirSync(folder, { mode: 0o700 })
  const identity = { formatVersion, id, createdAt: place.now.toISOString(), contentHash: chainHash(what), ...what } as const
  writeAtomically(chainFiles(folder).identity, `${JSON.stringify(identity, null, 1)}\n`)
  return { id, folder, identity }
}

/** Two chains with the same one train the same stages up to the same one. */
export function chainHash({ stages, until, cwd, engine }: Pick<ChainIdentity, 'stages' | 'until' | 'cwd' | 'engine'>): string {
  return createHash('sha256')
    .update(JSON.stringify([stages, until, cwd, ...(engine ? [engine] : [])]))
    .digest('hex')
}

/** Opens a chain folder. Raises UserError CHAIN_INVALID where it is not one. */
export function openChain(folder: string): Chain {
  try {
    const identity = chainIdentity.parse(JSON.parse(readFileSync(chainFiles(folder).identity, 'utf8')))
    return { id: identity.id, folder, identity }
  } catch (cause) {
    const reason = cause instanceof z.ZodError ? cause.issues[0]?.message : (cause as Error).message
    throw new UserError('CHAIN_INVALID', `${folder}: expected the folder of a chain, got ${reason}`, {
      cause,
      hint: '`stagewright runs` lists what there is',
    })
  }
}

/** Every chain of a runs folder, oldest first. Folders that are none are left alone. */
export function listChains(runsFolder: string): Chain[] {
  const folder = chainsFolder(runsFolder)
  return openAll(folder, idsIn(folder, identityName), openChain)
}

/** The chain with an id or a unique beginning of one; undefined where there is none. Raises UserError CHAIN_AMBIGUOUS. */
export function findChain(runsFolder: string, address: string): Chain | undefined {
  const matching = address === '' ? [] : listChains(runsFolder).filter(({ id }) => id.startsWith(address))
  const exact = matching.find(({ id }) => id === address)
  if (!exact && matching.length > 1) {
    const ids = matching.map(({ id }) => id).join(', ')
    throw new UserError('CHAIN_AMBIGUOUS', `${address}: expected one chain, got ${ids}`, { hint: 'write more of the id' })
  }
  return exact ?? matching[0]
}

/** How a chain stands by its journal. */
export function readChainState(chain: Chain): ChainState {
  return foldChain(chainJournal(chainFiles(chain.folder).journal).next())
}
