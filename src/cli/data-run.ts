import { UserError } from '../domain/errors.ts'
import type { Stage } from '../domain/stage/schema.ts'
import { resolveSide } from '../runs/addresses.ts'
import {
  checkStageData,
  type DataReport,
  type DecodeReport,
  decodeStageData,
  type WrittenAnnotation,
  initData as writeAnnotation,
} from '../runs/data.ts'
import type { RunsWorld } from '../runs/world.ts'
import { runsFolderOf, upstreamCheckoutOf } from './folders.ts'
import type { RunOptions, TrainingWorld } from './run-world.ts'
import { paintFor, printable, writeJson } from './terminal.ts'

const shownExamples = 3

export interface DataInitArguments extends RunOptions {
  folder: string
  json: boolean
}

export interface DataCheckArguments extends RunOptions {
  recipe: string
  data: string | undefined
  set: string[]
  json: boolean
}

/** Writes the annotation of a folder. */
export async function initData({ folder, runs, pythonEnv, json }: DataInitArguments, world: TrainingWorld): Promise<void> {
  const written = await writeAnnotation(folder, await world.runsWorld({ runsFolder: runsFolderOf(runs, world), pythonEnv }))
  if (json) writeJson(world.stdout, { formatVersion: 1, ...written })
  else world.stdout.write(annotationLines(written).join(''))
}

function annotationLines({ entries, annotation, listFile, withoutCaption, unreadable }: WrittenAnnotation): string[] {
  const named = (files: readonly string[]) => files.map((file) => `  ${printable(file)}\n`)
  return [
    `${entries} ${entries === 1 ? 'clip' : 'clips'} measured: ${printable(annotation)}, listed by ${printable(listFile)}\n`,
    ...(withoutCaption.length > 0
      ? [`${withoutCaption.length} without a caption (a .txt beside the clip):\n`, ...named(withoutCaption)]
      : []),
    ...(unreadable.length > 0 ? [`${unreadable.length} left out, no video or image can be read from them:\n`, ...named(unreadable)] : []),
  ]
}

/** Says what a stage would make of its data. Exit code 1 where nothing would be left to train on, or more cannot be decoded than may. */
export async function checkData(args: DataCheckArguments & { decode: boolean }, world: TrainingWorld): Promise<void> {
  const { stage, source, runs } = await stageWithData(args, world)
  const report = await checkStageData(stage, source, runs)
  const decoded = args.decode && !report.empty ? await decodedReport(stage, source, args.json, world, runs) : undefined
  if (decoded && decoded.damaged.length > stage.data.maxSkippedShare * decoded.read) world.setExitCode(1)
  if (args.json) writeJson(world.stdout, args.decode ? { ...report, decoded: decoded ?? null } : report)
  else world.stdout.write([...reportLines(report, world), ...(decoded ? damagedLines(decoded) : [])].map((line) => `${line}\n`).join(''))
  if (report.empty) world.setExitCode(1)
}

async function decodedReport(
  stage: Stage,
  source: string,
  isQuiet: boolean,
  world: TrainingWorld,
  runs: RunsWorld,
): Promise<DecodeReport | undefined> {
  const leaving = new AbortController()
  const release = world.onInterrupt(() => leaving.abort())
  const isLive = world.stdout.isTTY === true && !isQuiet
  try {
    const report = await decodeStageData(
      stage,
      source,
      {
        signal: leaving.signal,
        say: ({ clips, read, damaged }) => isLive && world.stdout.write(`\r${read} of ${clips} decoded, ${damaged} damaged\u001b[K`),
      },
      runs,
    )
    if (!report) world.setExitCode(130)
    return report
  } finally {
    release()
    if (isLive) world.stdout.write('\r\u001b[K')
  }
}

function damagedLines({ read, damaged }: DecodeReport): string[] {
  if (damaged.length === 0) return [`  all ${read} decode`]
  return [`  ${damaged.length} of ${read} cannot be decoded`, ...damaged.map(({ problem }) => `    ${printable(problem)}`)]
}

/** The stage a command is about and where its clips are. Raises UserError DATA_MISSING where it names none. */
export async function stageWithData(
  args: DataCheckArguments,
  world: TrainingWorld,
): Promise<{ stage: Stage; source: string; runs: RunsWorld }> {
  const runs = await world.runsWorld({ runsFolder: runsFolderOf(args.runs, world), pythonEnv: args.pythonEnv })
  const { stage } = await resolveSide(args.recipe, {
    cwd: world.cwd,
    runsFolder: runs.runsFolder,
    upstreamCheckout: upstreamCheckoutOf(undefined, world),
    set: args.set,
  })
  const source = args.data ?? stage.data.source
  if (source === null) throw new UserError('DATA_MISSING', `${args.recipe}: expected data.source, got none`, { hint: 'pass --data FOLDER' })
  return { stage, source, runs }
}

/** A report in words: what there is, what each rule drops, the buckets, the steps. */
export function reportLines(report: DataReport, world: TrainingWorld): string[] {
  const { bold, dim, yellow } = paintFor(world.stdout, world.env)
  const dropped = report.dropped.flatMap(({ rule, clips, examples, remedy, change }) => [
    `  ${yellow(`dropped ${clips}`)} ${rule}`,
    `    ${dim(examples.slice(0, shownExamples).map(printable).join(', '))}`,
    `    ${change ? `${change.setting}: ${String(change.from)} → ${String(change.to)} keeps ${change.keeps} of them` : remedy}`,
  ])
  const images = report.jointImages > 0 ? ` with ${report.jointImages} images beside them` : ''
  const buckets = report.buckets.map(
    ({ frames, height, width, clips, batches }) =>
      `  ${`${frames}×${height}×${width}`.padEnd(14)} ${clips} clips, ${batches} batches an epoch`,
  )
  return [
    `${bold(`${report.training} clips to train on`)}${images}, ${report.heldOut} held out, of ${report.entries}`,
    ...dropped,
    ...buckets,
    `  ${report.globalBatch} clips a step, ${report.stepsPerEpoch} steps an epoch; ends at step ${report.endsAt}: ${report.endsBecause}`,
  ]
}
