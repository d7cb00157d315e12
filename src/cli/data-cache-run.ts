import {
  type CacheCoverage,
  type CacheProgress,
  type CacheState,
  dataInputs,
  type FilledCache,
  fillCaches,
  recipeFileOf,
  showStageData,
} from '../runs/data.ts'
import { type DataCheckArguments, reportLines, stageWithData } from './data-run.ts'
import { duration } from './progress.ts'
import type { TrainingWorld } from './run-world.ts'
import { type Paint, paintFor, printable, writeJson } from './terminal.ts'

export interface DataCacheArguments extends DataCheckArguments {
  verify: boolean
}

const shownFiles = 5

/** Says what a stage trains on and what of it is kept. Exit code 1 where nothing would be left to train on. */
export async function showData(args: DataCheckArguments, world: TrainingWorld): Promise<void> {
  const { stage, source, runs } = await stageWithData(args, world)
  const inputs = dataInputs(stage, source, recipeFileOf(args.recipe), runs)
  const report = await showStageData(stage, inputs, runs)
  if (args.json) writeJson(world.stdout, report)
  else {
    const paint = paintFor(world.stdout, world.env)
    const kept = stage.data.cache === 'off' ? ['  nothing is kept: data.cache is off'] : report.cache ? stateLines(report.cache, paint) : []
    world.stdout.write([...reportLines(report, world), ...kept].map((line) => `${line}\n`).join(''))
  }
  if (report.empty) world.setExitCode(1)
}

/** Fills the caches of a stage. Ctrl-C ends it with what is done; the same command goes on. */
export async function cacheData(args: DataCacheArguments, world: TrainingWorld): Promise<void> {
  const { stage, source, runs } = await stageWithData(args, world)
  const inputs = dataInputs(stage, source, recipeFileOf(args.recipe), runs)
  const leaving = new AbortController()
  const release = world.onInterrupt(() => leaving.abort())
  const say = args.json ? () => undefined : progressOf(world)
  try {
    const build = await fillCaches(stage, inputs, { verify: args.verify, signal: leaving.signal, say }, runs)
    if (world.stdout.isTTY && !args.json) world.stdout.write('\r\u001b[K')
    if (!build) {
      world.stderr.write('ended; what was encoded is kept, and the same command goes on\n')
      world.setExitCode(130)
    } else if (args.json) writeJson(world.stdout, build)
    else {
      world.stdout.write(`${filledLines('latents', build.latents).join('\n')}\n`)
      if (build.text) world.stdout.write(`${filledLines('text', build.text).join('\n')}\n`)
    }
  } finally {
    release()
  }
}

/** Writes progress over itself on a terminal, and each tenth elsewhere. */
function progressOf({ stdout }: TrainingWorld): (progress: CacheProgress) => void {
  let said = -1
  return (progress) => {
    const isLive = stdout.isTTY === true
    const text =
      progress.event === 'filling'
        ? `${progress.kind}: ${progress.found + progress.made} of ${progress.wanted}, ${progress.made} of them now`
        : `${progress.kind}: ${progress.read} kept entries read, ${progress.right} as written`
    const tenth = progress.event === 'filling' ? Math.floor((10 * (progress.found + progress.made)) / Math.max(1, progress.wanted)) : said
    if (isLive) stdout.write(`\r${text}\u001b[K${progress.event === 'verified' ? '\n' : ''}`)
    else if (tenth > said || progress.event === 'verified') stdout.write(`${text}\n`)
    said = Math.max(said, tenth)
  }
}

function filledLines(kind: string, { folder, wanted, found, made, refused, damaged, bytes, seconds }: FilledCache): string[] {
  return [
    `${kind}: ${found + made} of ${wanted} kept, ${made} of them made in ${duration(seconds)}, ${size(bytes)} in ${folder}`,
    ...refused.slice(0, shownFiles).map((problem) => `  ${printable(problem)}`),
    ...damaged.slice(0, shownFiles).map(({ problem }) => `  could not be decoded: ${printable(problem)}`),
    ...(damaged.length > shownFiles ? [`  and ${damaged.length - shownFiles} more; stagewright data check names them all`] : []),
  ]
}

function stateLines({ latents, text, why, problems, others }: CacheState, { yellow, dim }: Paint): string[] {
  return [
    ...(latents ? coverageLines('latents', latents, yellow) : [`  latents: ${why ?? 'not kept'}`]),
    ...(text ? coverageLines('text', text, yellow) : []),
    ...problems.map((problem) => `  ${yellow(printable(problem))}`),
    ...others.map(({ kind, folder, entries, bytes, differs }) => {
      const why = differs.length > 0 ? `made with another ${differs.join(', ')}` : 'of other settings'
      return dim(`  not used: ${entries} ${kind}, ${size(bytes)}, ${why}, in ${printable(folder)}`)
    }),
  ]
}

function coverageLines(kind: string, coverage: CacheCoverage, yellow: Paint['yellow']): string[] {
  const { stale, folder, bytes } = coverage
  return [
    `  ${kind}: ${hitRate(coverage)}, ${size(bytes)} in ${printable(folder)}`,
    ...stale.slice(0, shownFiles).map((path) => `    ${yellow('stale')} ${printable(path)}: it has changed; its kept encoding is not used`),
    ...(stale.length > shownFiles ? [`    and ${stale.length - shownFiles} more stale ones`] : []),
  ]
}

/** `90 of 120 kept (75 %)`, and of how many that was seen where it was not all. */
export function hitRate({ wanted, lookedAt, found, unread }: CacheCoverage): string {
  const share = lookedAt === 0 ? 0 : (100 * found) / lookedAt
  const sampled = lookedAt < wanted ? `, seen on ${lookedAt} of ${wanted}` : ''
  return `${found} of ${lookedAt} kept (${share.toFixed(share > 99 && found < lookedAt ? 2 : 0)} %)${sampled}${unread > 0 ? `, ${unread} not read yet` : ''}`
}

function size(bytes: number): string {
  return bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : `${(bytes / 1e6).toFixed(1)} MB`
}
