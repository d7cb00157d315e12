import { resolve } from 'node:path'
import { readAlertsFile } from '../config/alerts-file.ts'
import { readConfigFile, readNamed } from '../config/source.ts'
import type { AlertsFile } from '../domain/alerts.ts'
import { alertsOfHistory, watchAlerts } from '../runs/alerts.ts'
import { sendAlert, sinkName, textOf } from '../runs/send-alert.ts'
import { findRun } from '../store/runs.ts'
import { runsFolderOf } from './folders.ts'
import type { RunOptions, TrainingWorld } from './run-world.ts'
import { writeJson } from './terminal.ts'

export interface AlertArguments extends RunOptions {
  file: string
  run?: string
  json?: boolean
}

/** Watches, looks back, or sends a test. */
export async function runAlerts(action: 'watch' | 'history' | 'test', args: AlertArguments, world: TrainingWorld): Promise<void> {
  const file = readAlertsFile(
    readNamed(args.file, (path) => readConfigFile(resolve(world.cwd, path)), { hint: 'docs/alerts.md shows one' }),
    args.file,
  )
  const runsFolder = runsFolderOf(args.runs, world)
  if (action === 'test') await test(file, world)
  else if (action === 'history') history(file, args, runsFolder, world)
  else await watch(file, runsFolder, world)
}

async function watch(file: AlertsFile, runsFolder: string, world: TrainingWorld): Promise<void> {
  const leaving = new AbortController()
  const release = world.onInterrupt(() => leaving.abort())
  world.stdout.write(`watching ${runsFolder}: ${file.rules.length} rules, to ${file.send.map(sinkName).join(', ')}\n`)
  const teller = {
    sent: (alert: Parameters<typeof textOf>[0]) => world.stdout.write(`${textOf(alert)}\n`),
    unsent: (_: unknown, cause: unknown) => world.stderr.write(`${cause instanceof Error ? cause.message : String(cause)}\n`),
  }
  await watchAlerts(runsFolder, file, leaving.signal, teller, () => Date.now() / 1000).finally(release)
}

function history(file: AlertsFile, { run, json }: AlertArguments, runsFolder: string, world: TrainingWorld): void {
  const alerts = alertsOfHistory(findRun(runsFolder, run ?? ''), file)
  if (json) {
    writeJson(world.stdout, { formatVersion: 1, alerts })
    return
  }
  for (const alert of alerts) world.stdout.write(`${new Date(alert.ts * 1000).toISOString()}  ${textOf(alert)}\n`)
  world.stdout.write(`${alerts.length} alerts\n`)
}

/** Every place is tried; the first that fails decides the exit code. */
async function test({ send }: AlertsFile, world: TrainingWorld): Promise<void> {
  const alert = { rule: 'test', run: 'no-run', ts: Date.now() / 1000, message: 'a test: nothing has happened' }
  const results = await Promise.allSettled(send.map((sink) => sendAlert(alert, sink)))
  for (const [at, sink] of send.entries()) if (results[at]?.status === 'fulfilled') world.stdout.write(`${sinkName(sink)}: sent\n`)
  const failed = results.find((result) => result.status === 'rejected')
  if (failed) throw failed.reason
}
