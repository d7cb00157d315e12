import { setTimeout as sleep } from 'node:timers/promises'
import { UserError } from '../domain/errors.ts'
import { settledState } from '../runs/supervise.ts'
import { isLive, type RunSummary } from '../runs/watch/summary.ts'
import { WatchedRuns } from '../runs/watch/watched-runs.ts'
import type { RunsWorld } from '../runs/world.ts'
import { findRun } from '../store/runs.ts'
import { runsFolderOf } from './folders.ts'
import { exitCodeOf, follow } from './follow.ts'
import { brief, duration } from './progress.ts'
import { Redrawn } from './redrawn.ts'
import type { RunOptions, TrainingWorld } from './run-world.ts'
import { type Paint, paintFor, table, writeJson, writeLines } from './terminal.ts'

export interface WatchArguments extends RunOptions {
  run: string[]
  once: boolean
  json: boolean
}

const formatVersion = 1
const lookMs = 1000
const barColumns = 16

/** Follows one run with its curve, or several as a table that is redrawn in place. */
export async function runWatch({ run: addresses, once, json, ...args }: WatchArguments, world: TrainingWorld): Promise<void> {
  if (json && !once) {
    throw new UserError('WATCH_FORM', 'watch --json: expected --once beside it, got a view that goes on', { hint: 'watch --once --json' })
  }
  const runsFolder = runsFolderOf(args.runs, world)
  const runs = await world.runsWorld({ runsFolder, pythonEnv: args.pythonEnv })
  const named = addresses.map((address) => findRun(runsFolder, address))
  const [only, ...others] = named
  if (only && others.length === 0 && !once) {
    await settledState(only, runs)
    world.setExitCode(exitCodeOf(await follow(only, { ctrlC: 'leaves' }, world, runs)))
    return
  }
  const ids = named.map(({ id }) => id)
  const watched = new WatchedRuns(runs)
  if (once) printOnce(await summaries(watched, ids), json, world)
  else await followTable(watched, ids, world, runs)
}

/** The named runs, or those that are not over. */
async function summaries(watched: WatchedRuns, ids: readonly string[]): Promise<readonly RunSummary[]> {
  let list = await watched.list()
  while (list.pending > 0) list = await watched.list()
  return list.runs.filter((run) => (ids.length > 0 ? ids.includes(run.id) : isLive(run.standing)))
}

function printOnce(runs: readonly RunSummary[], json: boolean, world: TrainingWorld): void {
  if (json) writeJson(world.stdout, { formatVersion, runs })
  else if (runs.length === 0) world.stdout.write('no run trains now\n')
  else writeLines(world.stdout, tableLines(runs, paintFor(world.stdout, world.env)))
}

async function followTable(watched: WatchedRuns, named: readonly string[], world: TrainingWorld, runs: RunsWorld): Promise<void> {
  const leaving = new AbortController()
  const release = world.onInterrupt(() => leaving.abort())
  const view = new TableView(world)
  const ids = new Set(named)
  try {
    while (!leaving.signal.aborted) {
      const found = await summaries(watched, [...ids])
      if (found.length === 0) {
        world.stdout.write(`no run under ${runs.runsFolder} trains now\n`)
        return
      }
      view.draw(found)
      if (!found.some(({ standing }) => isLive(standing))) return
      // A run that was watched stays in view after its end; new ones join where none was named.
      if (named.length === 0) for (const run of [...found, ...(await summaries(watched, []))]) ids.add(run.id)
      await sleep(lookMs, undefined, { signal: leaving.signal }).catch(() => undefined)
    }
  } finally {
    release()
  }
}

/** A table redrawn in place on a terminal; elsewhere a line for each change of state. */
class TableView {
  readonly #world: TrainingWorld
  readonly #paint: Paint
  readonly #told = new Map<string, string>()
  readonly #view: Redrawn

  constructor(world: TrainingWorld) {
    this.#world = world
    this.#view = new Redrawn(world.stdout)
    this.#paint = paintFor(world.stdout, world.env)
  }

  draw(runs: readonly RunSummary[]): void {
    const { stdout } = this.#world
    if (!stdout.isTTY) {
      for (const run of runs) this.#tell(run)
      return
    }
    this.#view.draw(tableLines(runs, this.#paint))
  }

  #tell(run: RunSummary): void {
    if (this.#told.get(run.id) === run.standing) return
    this.#told.set(run.id, run.standing)
    const end = run.message ? ` – ${run.message}` : ''
    this.#world.stdout.write(`${run.id}: ${run.standing}, step ${run.step}/${run.steps}, loss ${brief(run.loss ?? undefined)}${end}\n`)
  }
}

function tableLines(runs: readonly RunSummary[], paint: Paint): string[] {
  const head = ['run', 'state', '', 'step', 'loss', 'held-out', 'lr', 'left'].map(paint.dim)
  return table([head, ...runs.map((run) => rowOf(run, paint))])
}

function rowOf(run: RunSummary, { bold, green, dim, red }: Paint): string[] {
  const full = Math.round(Math.min(1, run.step / Math.max(1, run.steps)) * barColumns)
  const left = run.secondsPerStep === null || !isLive(run.standing) ? Number.NaN : (run.steps - run.step) * run.secondsPerStep
  const isBad = !isLive(run.standing) && !['new', 'completed', 'stopped', 'paused', 'plateau', 'data-exhausted'].includes(run.standing)
  const number = (value: number | null) => brief(value ?? undefined)
  return [
    bold(run.id),
    isBad ? red(run.standing) : run.standing,
    green('━'.repeat(full)) + dim('━'.repeat(barColumns - full)),
    `${run.step}/${run.steps}`,
    number(run.loss),
    number(run.heldOutLoss),
    number(run.learningRate),
    duration(left),
  ]
}
