import { writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { UserError } from '../domain/errors.ts'
import { findRun } from '../store/runs.ts'
import { runsFolderOf } from './folders.ts'
import type { RunOptions, TrainingWorld } from './run-world.ts'

export interface ReportArguments extends RunOptions {
  run: string
  out: string | undefined
}

/** Writes the report of a run and says where. */
export async function writeReport({ run: address, out, ...args }: ReportArguments, world: TrainingWorld): Promise<void> {
  const runsFolder = runsFolderOf(args.runs, world)
  const { id } = findRun(runsFolder, address)
  const file = resolve(world.cwd, out ?? `${id}.html`)
  const text = await world.reportOf(id, await world.runsWorld({ runsFolder, pythonEnv: args.pythonEnv }))
  try {
    writeFileSync(file, text)
  } catch (cause) {
    throw new UserError('REPORT_WRITE', `${file}: expected to write the report there, got ${(cause as Error).message}`, {
      cause,
      hint: 'name another file with --out',
    })
  }
  world.stdout.write(`wrote ${file} (${(Buffer.byteLength(text) / 1024).toFixed(0)} KiB)\n`)
}
