import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import { makeFolder } from './files.ts'
import { filesOf } from './runs.ts'

/** Counted up whenever what is kept changes its form. */
const keptVersion = 1
const keptSchema = z.strictObject({ version: z.literal(keptVersion), mark: z.string(), summary: z.record(z.string(), z.unknown()) })

const pathOf = (runFolder: string) => join(filesOf(runFolder).derived, 'summary.json')

/** Keeps what was derived from a run's journals as long as they are those that `mark` stands for. One that cannot be written is no loss. */
export function keepSummary(runFolder: string, mark: string, summary: object): void {
  const path = pathOf(runFolder)
  const temporary = `${path}.${process.pid}.tmp`
  try {
    makeFolder(filesOf(runFolder).derived)
    writeFileSync(temporary, JSON.stringify({ version: keptVersion, mark, summary }), { mode: 0o600 })
    renameSync(temporary, path)
  } catch {
    rmSync(temporary, { force: true })
  }
}

/** What was kept for a mark; undefined where that is of other journals, damaged or not there. */
export function keptSummary(runFolder: string, mark: string): object | undefined {
  try {
    const kept = keptSchema.parse(JSON.parse(readFileSync(pathOf(runFolder), 'utf8')))
    return kept.mark === mark ? kept.summary : undefined
  } catch {
    return undefined
  }
}
