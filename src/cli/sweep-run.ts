import { resolve } from 'node:path'
import { readConfigFile } from '../config/source.ts'
import { loadSweep } from '../config/sweep-file.ts'
import { UserError } from '../domain/errors.ts'
import { SweepFold } from '../domain/sweep/state.ts'
import { followSweep, isSweepDriven, openedSweep, startSweep, sweepFor } from '../runs/sweep/begin.ts'
import { renderSweep } from '../runs/sweep/plan.ts'
import { reportSweep, type SweepReport } from '../runs/sweep/report.ts'
import type { RunsWorld } from '../runs/world.ts'
import { requestStop } from '../store/stop-request.ts'
import { findSweep, listSweeps, type Sweep } from '../store/sweeps.ts'
import { chosenEngine } from './engine-chosen.ts'
import type { EngineOptions } from './engine-options.ts'
import { runsFolderOf } from './folders.ts'
import type { RunOptions, TrainingWorld } from './run-world.ts'
import { newsLine, reportCsv, reportJson, reportLines, reportMarkdown, sweepsTable } from './sweep-text.ts'
import { paintFor, writeJson, writeLines } from './terminal.ts'

export interface SweepArguments extends RunOptions, EngineOptions {
  file: string
  data: string | undefined
  fork: boolean
  dryRun: boolean
  detach: boolean
  json: boolean
}

export interface SweepPlanArguments extends RunOptions, EngineOptions {
  file: string
  data: string | undefined
  json: boolean
}

export interface SweepShowArguments extends RunOptions {
  sweep: string | undefined
  json: boolean
  markdown: boolean
  csv: boolean
}

export interface SweepStopArguments extends RunOptions {
  sweep: string
  kill: boolean
}

const formatVersion = 1
const stopPollMs = 100

async function runsOf(args: RunOptions, world: TrainingWorld): Promise<RunsWorld> {
  return world.runsWorld({ runsFolder: runsFolderOf(args.runs, world), pythonEnv: args.pythonEnv })
}

/** Begins a sweep or goes on with it, and reports. Exit code 1 where it came to no result. */
export async function runSweep(args: SweepArguments, world: TrainingWorld): Promise<void> {
  const runsFolder = runsFolderOf(args.runs, world)
  const runs = await world.runsWorld({ runsFolder, pythonEnv: args.pythonEnv, chosenEngine: chosenEngine(args, world) })
  const loaded = loadSweep(args.file, { readFile: (path) => readConfigFile(resolve(world.cwd, path)), data: args.data })
  if (args.dryRun) {
    world.stdout.write((await renderSweep(loaded, runs)).join('\n'))
    return
  }
  const sweep = sweepFor(loaded, { fork: args.fork }, runs)
  if (!args.json) world.stdout.write(`sweep ${sweep.id}\n`)
  const drive = await startSweep(sweep, runs)
  if (args.detach) {
    if (!args.json) world.stdout.write(`it goes on by itself. See it with: stagewright sweep show ${sweep.id}\n`)
    else writeJson(world.stdout, { formatVersion, sweep: sweep.id })
    return
  }
  await follow(sweep, drive, args, world, runs)
  const report = await reportSweep(sweep, { importance: true }, runs)
  print(report, { ...args, markdown: false, csv: false }, world)
  world.setExitCode(report.ranking.best && report.status !== 'failed' ? 0 : 1)
}

async function follow(sweep: Sweep, drive: number, { json }: SweepArguments, world: TrainingWorld, runs: RunsWorld): Promise<void> {
  const release = world.onInterrupt((times) => {
    world.stderr.write(times > 1 ? 'killing its trials\n' : 'stopping its trials with a checkpoint; again kills them\n')
    requestStop(sweep, { by: runs.actor, kill: times > 1 })
  })
  const fold = new SweepFold()
  const paint = paintFor(world.stdout, world.env)
  try {
    for await (const event of followSweep(sweep, drive, runs)) {
      fold.add(event)
      const line = json ? undefined : newsLine(event, fold, paint)
      if (line !== undefined) world.stdout.write(`${line}\n`)
    }
  } finally {
    release()
  }
}

export async function showSweep(args: SweepShowArguments, world: TrainingWorld): Promise<void> {
  if ([args.json, args.markdown, args.csv].filter(Boolean).length > 1)
    throw new UserError('SWEEP_FORM', 'sweep show: expected one of --json, --markdown and --csv, got several', { hint: 'choose one' })
  const runs = await runsOf(args, world)
  if (args.sweep === undefined) {
    const reports = await Promise.all(listSweeps(runs.runsFolder).map((sweep) => reportSweep(sweep, { importance: false }, runs)))
    if (args.json) writeJson(world.stdout, { formatVersion, sweeps: reports.map(reportJson) })
    else writeLines(world.stdout, sweepsTable(reports))
    return
  }
  const sweep = await openedSweep(args.sweep, runs)
  print(await reportSweep(sweep, { importance: !args.csv }, runs), args, world)
}

function print(
  report: SweepReport,
  { json, markdown, csv }: { json: boolean; markdown: boolean; csv: boolean },
  world: TrainingWorld,
): void {
  if (json) writeJson(world.stdout, { formatVersion, ...reportJson(report) })
  else if (markdown) writeLines(world.stdout, reportMarkdown(report))
  else if (csv) writeLines(world.stdout, reportCsv(report))
  else writeLines(world.stdout, reportLines(report, paintFor(world.stdout, world.env)))
}

export async function stopSweep(args: SweepStopArguments, world: TrainingWorld): Promise<void> {
  const runs = await runsOf(args, world)
  const sweep = findSweep(runs.runsFolder, args.sweep)
  if (!isSweepDriven(sweep)) await startSweep(sweep, runs).catch(() => undefined)
  if (!isSweepDriven(sweep))
    throw new UserError('SWEEP_NOT_ACTIVE', `${sweep.id}: expected a sweep that is being driven, got one that is not`, { exitCode: 1 })
  requestStop(sweep, { by: runs.actor, kill: args.kill })
  const { setTimeout: sleep } = await import('node:timers/promises')
  while (isSweepDriven(sweep)) await sleep(stopPollMs)
  world.stdout.write(`${sweep.id} has stopped; the same file goes on with it\n`)
}
