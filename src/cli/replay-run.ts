import { attach } from '../runs/attach.ts'
import { startRun } from '../runs/launch.ts'
import { prepareReplay, type ReplayReport, reportReplay } from '../runs/replay.ts'
import { findRun, readState } from '../store/runs.ts'
import { runsFolderOf } from './folders.ts'
import { announced, follow } from './follow.ts'
import type { RunOptions, TrainingWorld } from './run-world.ts'
import { paintFor, writeJson } from './terminal.ts'

export interface ReplayArguments extends RunOptions {
  run: string
  json: boolean
}

/** Repeats a run and compares. */
export async function runReplay(args: ReplayArguments, world: TrainingWorld): Promise<void> {
  const runsFolder = runsFolderOf(args.runs, world)
  const runs = await world.runsWorld({ runsFolder, pythonEnv: args.pythonEnv })
  const original = findRun(runsFolder, args.run)
  const replay = await prepareReplay(original, runs)
  if (args.json) {
    await startRun(replay, runs)
    for await (const _ of attach(replay, runs));
  } else await follow(replay, { ctrlC: 'stops', start: () => announced(replay, () => startRun(replay, runs), world) }, world, runs)
  const report = reportReplay(original, replay)
  const ended = readState(replay).attempts.at(-1)?.end?.reason
  if (args.json) writeJson(world.stdout, { formatVersion: 1, original: original.id, replay: replay.id, ended: ended ?? null, ...report })
  else for (const line of reportLines(original.id, report, paintFor(world.stdout, world.env))) world.stdout.write(`${line}\n`)
  if (report.verdict.verdict === 'diverged') world.setExitCode(1)
}

function reportLines(
  original: string,
  { verdict, differs }: ReplayReport,
  { green, red, yellow, dim }: ReturnType<typeof paintFor>,
): string[] {
  const where = differs.length > 0 ? [dim(`  elsewhere than the original: ${differs.join(', ')}`)] : []
  switch (verdict.verdict) {
    case 'identical':
      return [`${green('identical')} to ${original} in loss and gradient norm at all ${verdict.steps} steps`, ...where]
    case 'within-noise':
      return [`${yellow('within noise')} of ${original}: at most ${percent(verdict.largest)} apart, at step ${verdict.at}`, ...where]
    case 'diverged':
      return [
        Number.isFinite(verdict.largest)
          ? `${red('diverged')} from ${original} at step ${verdict.at}: ${percent(verdict.largest)} apart`
          : `${red('diverged')} from ${original}: it has no number to compare at step ${verdict.at}`,
        ...where,
      ]
    default:
      return verdict satisfies never
  }
}

function percent(share: number): string {
  return `${(100 * share).toPrecision(2)} %`
}
