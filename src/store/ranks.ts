import { existsSync, readFileSync } from 'node:fs'
import { UserError } from '../domain/errors.ts'
import { formatVersion } from '../domain/protocol.ts'
import { passesOn, type Ranks, ranks } from '../domain/ranks.ts'
import { writeAtomically } from './files.ts'
import { filesOf, type Run } from './runs.ts'

/** How many ranks the next attempt of a run starts: as its stage says, where nothing else was chosen. Raises UserError RUN_INVALID. */
export function ranksOf(run: Run): Ranks {
  const path = filesOf(run.folder).ranks
  const { nodes, processes } = run.stage.parallel
  if (!existsSync(path)) return { formatVersion, nodes, processes }
  const read = ranks.safeParse(parsed(path))
  if (read.success) return read.data
  throw new UserError('RUN_INVALID', `${path}: expected the ranks of a run, got ${JSON.stringify(read.error.issues[0]?.message)}`, {
    hint: `stagewright continue ${run.id} --processes ${processes}`,
  })
}

/** Chooses how many ranks the next attempts of a run start. Raises UserError GLOBAL_BATCH. */
export function chooseRanks(run: Run, chosen: Partial<Omit<Ranks, 'formatVersion'>>): void {
  const { nodes, processes } = { ...run.stage.parallel, ...chosen }
  passesOn({ nodes, processes }, run.stage)
  writeAtomically(filesOf(run.folder).ranks, `${JSON.stringify({ formatVersion, nodes, processes } satisfies Ranks)}\n`)
}

function parsed(path: string): unknown {
  try {
    return JSON.parse(readFileSync(path, 'utf8'))
  } catch {
    return undefined
  }
}
