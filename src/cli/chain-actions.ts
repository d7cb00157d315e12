import type { ChainEnd, foundRuns } from '../domain/chain.ts'
import { UserError } from '../domain/errors.ts'
import type { RunEnd } from '../domain/run/state.ts'
import { followChain, isDriven, startChain } from '../runs/chain-driver.ts'
import { stopRun } from '../runs/control.ts'
import type { Prepared } from '../runs/launch.ts'
import type { RunsWorld } from '../runs/world.ts'
import { type Chain, chainFiles, readChainState } from '../store/chains.ts'
import { findRun, type Run } from '../store/runs.ts'
import { requestStop } from '../store/stop-request.ts'
import { exitCodeOf, follow, sayStopping } from './follow.ts'
import type { TrainingWorld } from './run-world.ts'
import { paintFor, writeJson } from './terminal.ts'

/** What is said before a stage is followed. */
type Before = (stage: string, run: Run, found: Prepared['found']) => Promise<void>

const foundText: { readonly [Found in (typeof foundRuns)[number]]: (run: Run) => string } = {
  new: ({ id }) => `run ${id}`,
  finished: ({ id }) => `done already by ${id}`,
  training: ({ id }) => `trains already as ${id}`,
  unfinished: ({ id }) => `goes on with ${id}, which was broken off`,
}

/** Says how a stage came to its run. */
export async function sayFound(stage: string, run: Run, found: Prepared['found'], world: TrainingWorld): Promise<void> {
  world.stdout.write(`${stage}: ${foundText[found](run)}\n`)
}

/**
 * Follows a drive of a chain through its stages to its end and says how it ended; undefined where it was left. With `owns`, the first
 * Ctrl-C stops the chain with a checkpoint and the second kills what trains; without, Ctrl-C leaves.
 */
export async function followStages(
  chain: Chain,
  drive: number,
  options: { owns: boolean; before: Before },
  world: TrainingWorld,
  runs: RunsWorld,
): Promise<{ end: ChainEnd | undefined; runs: Map<string, Run> }> {
  const leaving = new AbortController()
  const release = world.onInterrupt((times) => {
    if (!options.owns) return leaving.abort()
    sayStopping(times, world)
    stopChain(chain, times > 1, runs).catch((cause: unknown) => world.stderr.write(`${String(cause)}\n`))
  })
  const followed = new Map<string, Run>()
  let end: ChainEnd | undefined
  try {
    for await (const news of followChain(chain, drive, runs, leaving.signal)) {
      if ('end' in news) end = news.end
      else if (followed.get(news.stage)?.id !== news.run.id) {
        followed.set(news.stage, news.run)
        await options.before(news.stage, news.run, news.found)
        if (news.found !== 'finished') await follow(news.run, { ctrlC: leaving.signal, fromAttempt: news.attempt }, world, runs)
      }
    }
  } finally {
    release()
  }
  if (!end) world.stdout.write(`left ${chain.id}; it goes on. Come back with: stagewright attach ${chain.id}\n`)
  else sayChainEnd(chain, end, world)
  return { end, runs: followed }
}

function sayChainEnd(chain: Chain, end: ChainEnd, world: TrainingWorld): void {
  const { green, red } = paintFor(world.stdout, world.env)
  const word = exitCodeOf({ reason: end.reason } as RunEnd) === 0 ? green(end.reason) : red(end.reason)
  world.stdout.write(`${chain.id}: ${word} – ${end.message}\n`)
  if (end.reason !== 'completed') world.stdout.write(`hint: stagewright continue ${chain.id} goes on with it\n`)
}

/** Ends a chain: through its driver, or, where none is at work, by ending the run it left. Raises UserError CHAIN_NOT_ACTIVE. */
export async function stopChain(chain: Chain, kill: boolean, runs: RunsWorld): Promise<void> {
  requestStop(chain, { by: runs.actor, kill })
  if (isDriven(chain, runs)) return
  const current = readChainState(chain).stages.find(({ isOver }) => !isOver)
  if (!current) {
    throw new UserError('CHAIN_NOT_ACTIVE', `${chain.id}: expected a chain that trains, got one that does not`, {
      hint: `stagewright continue ${chain.id}`,
      exitCode: 1,
    })
  }
  await stopRun(findRun(runs.runsFolder, current.run), kill ? { kill } : {}, runs)
}

/** Takes a chain up where it ended, and follows it. */
export async function continueChain(chain: Chain, detach: boolean, world: TrainingWorld, runs: RunsWorld): Promise<void> {
  const drive = await startChain(chain, runs)
  if (detach) {
    world.stdout.write(`it trains by itself. Follow it with: stagewright attach ${chain.id}\n`)
    return
  }
  const { end } = await followStages(chain, drive, { owns: true, before: (...news) => sayFound(...news, world) }, world, runs)
  world.setExitCode(exitCodeOf(end as RunEnd | undefined))
}

/** Follows a chain that trains, or tells how it ended. */
export async function attachToChain(chain: Chain, world: TrainingWorld, runs: RunsWorld): Promise<void> {
  const { drives } = readChainState(chain)
  const { end } = await followStages(chain, drives, { owns: false, before: (...news) => sayFound(...news, world) }, world, runs)
  world.setExitCode(exitCodeOf(end as RunEnd | undefined))
}

/** One word for where a chain stands. */
export function chainWord(chain: Chain, runs: RunsWorld): string {
  const { end, drives } = readChainState(chain)
  if (end) return end.reason
  if (isDriven(chain, runs)) return 'training'
  return drives === 0 ? 'new' : 'left by its driver'
}

/** Shows where a chain stands. */
export function showChain(chain: Chain, json: boolean, world: TrainingWorld, runs: RunsWorld): void {
  const state = readChainState(chain)
  const word = chainWord(chain, runs)
  if (json) {
    writeJson(world.stdout, {
      formatVersion: 1,
      chain: { ...chain.identity, stages: chain.identity.stages.map(({ name }) => name) },
      ...state,
      state: word,
    })
    return
  }
  const { bold, dim } = paintFor(world.stdout, world.env)
  const reached = new Map(state.stages.map((entry) => [entry.stage, entry]))
  world.stdout.write(`${bold(chain.id)}  ${word}${state.end ? ` – ${state.end.message}` : ''}\n`)
  for (const { name } of chain.identity.stages) {
    const entry = reached.get(name)
    world.stdout.write(`  ${dim(name.padEnd(12))}${entry ? `${entry.run}${entry.isOver ? '' : '  (trains)'}` : '–'}\n`)
  }
  world.stdout.write(`  ${dim('folder'.padEnd(12))}${chain.folder}\n  ${dim('log'.padEnd(12))}${chainFiles(chain.folder).log}\n`)
}
