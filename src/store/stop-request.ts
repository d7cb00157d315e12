import { readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import { writeAtomically } from './files.ts'

const stopSchema = z.strictObject({ by: z.string(), kill: z.boolean() })

/** Somebody's wish that a chain or a sweep ends. */
type StopRequest = z.output<typeof stopSchema>

const stopFile = (folder: string) => join(folder, 'stop.json')

/** Asks the driver of a chain or a sweep to end it. */
export function requestStop({ folder }: { readonly folder: string }, request: StopRequest): void {
  writeAtomically(stopFile(folder), JSON.stringify(request))
}

/** What was asked of the driver; undefined where nothing was. */
export function stopRequest({ folder }: { readonly folder: string }): StopRequest | undefined {
  try {
    return stopSchema.parse(JSON.parse(readFileSync(stopFile(folder), 'utf8')))
  } catch {
    return undefined
  }
}

/** Whoever takes it up again has not been asked yet. */
export function forgetStop({ folder }: { readonly folder: string }): void {
  rmSync(stopFile(folder), { force: true })
}
