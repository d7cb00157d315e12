import { existsSync, writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { UserError } from '../domain/errors.ts'
import { type CurveFormat, exportCurves } from '../runs/export-curves.ts'
import { importCurves } from '../runs/import-curves.ts'
import { findRun } from '../store/runs.ts'
import { runsFolderOf } from './folders.ts'
import type { RunOptions, TrainingWorld } from './run-world.ts'

export interface ImportCurvesArguments extends RunOptions {
  log: string
  name: string | undefined
  follow: boolean
}

export interface ExportCurvesArguments extends RunOptions {
  run: string
  to: CurveFormat
  output: string | undefined
}

export async function runImportCurves({ log, name, follow, runs: folder }: ImportCurvesArguments, world: TrainingWorld): Promise<void> {
  const runs = await world.runsWorld({ runsFolder: runsFolderOf(folder, world) })
  const leaving = new AbortController()
  const release = follow ? world.onInterrupt(() => leaving.abort()) : () => undefined
  try {
    const steps = await importCurves(log, { name, follow: follow ? leaving.signal : undefined }, runs, ({ id }) =>
      world.stdout.write(`run ${id}\n`),
    )
    world.stdout.write(`${steps} steps of ${log}\n`)
  } finally {
    release()
  }
}

export async function runExportCurves(
  { run: address, to, output, runs: folder }: ExportCurvesArguments,
  world: TrainingWorld,
): Promise<void> {
  if (output === undefined && to === 'parquet') {
    throw new UserError('OUTPUT_MISSING', 'curves export --to parquet: expected --output FILE, got none', {
      hint: 'Parquet is not for terminals',
    })
  }
  const path = output === undefined ? undefined : resolve(world.cwd, output)
  if (path !== undefined && existsSync(path)) {
    throw new UserError('OUTPUT_EXISTS', `${output}: expected no such file, got one`, { hint: 'name another with --output' })
  }
  const bytes = await exportCurves(findRun(runsFolderOf(folder, world), address), to)
  if (path === undefined) world.stdout.write(Buffer.from(bytes).toString('utf8'))
  else {
    writeFileSync(path, bytes, { flag: 'wx' })
    world.stdout.write(`wrote ${output}\n`)
  }
}
