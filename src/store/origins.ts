import { readFileSync } from 'node:fs'
import { z } from 'zod'
import type { Origin } from '../domain/stage/origin.ts'
import { writeAtomically } from './files.ts'
import { filesOf, type Run } from './runs.ts'

const originsSchema = z.record(
  z.string(),
  z.looseObject({
    layer: z.string(),
    file: z.string().optional(),
    line: z.number().optional(),
    column: z.number().optional(),
    name: z.string().optional(),
  }),
)

/** Keeps where each setting of a new run came from, for people; nothing is decided by it. */
export function keepOrigins(run: Run, origins: ReadonlyMap<string, Origin>): void {
  if (origins.size > 0) writeAtomically(filesOf(run.folder).origins, `${JSON.stringify(Object.fromEntries(origins))}\n`)
}

/** Where each setting of a run came from; empty where that was not kept. */
export function keptOrigins(run: Run): ReadonlyMap<string, Origin> {
  try {
    return new Map(
      Object.entries(originsSchema.parse(JSON.parse(readFileSync(filesOf(run.folder).origins, 'utf8'))) as Record<string, Origin>),
    )
  } catch {
    return new Map()
  }
}
