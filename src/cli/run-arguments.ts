import type { RunsWorld } from '../runs/world.ts'
import { type Chain, findChain } from '../store/chains.ts'
import { findRun, type Run } from '../store/runs.ts'
import { chosenEngine } from './engine-chosen.ts'
import type { EngineOptions } from './engine-options.ts'
import { runsFolderOf } from './folders.ts'
import type { RunOptions, TrainingWorld } from './run-world.ts'

/** Arguments of the commands about one run; each command fills those it has. */
export interface RunArguments extends RunOptions, EngineOptions {
  run: string
  stage?: string
  changes?: string[]
  set?: string[]
  at?: string
  weights?: 'ema' | 'raw' | 'best'
  after?: string
  group?: string
  kill?: boolean
  why?: string
  detach?: boolean
  processes?: number
  nodes?: number
  json?: boolean
  incident?: number
}

/** The run that is meant. */
export async function opened(args: RunArguments, world: TrainingWorld): Promise<{ run: Run; runs: RunsWorld }> {
  const runsFolder = runsFolderOf(args.runs, world)
  const run = findRun(runsFolder, args.run)
  return { run, runs: await world.runsWorld({ runsFolder, pythonEnv: args.pythonEnv, chosenEngine: chosenEngine(args, world) }) }
}

/** The chain that is meant, where it is one. */
export async function chainMeant(args: RunArguments, world: TrainingWorld): Promise<{ chain: Chain; runs: RunsWorld } | undefined> {
  const runsFolder = runsFolderOf(args.runs, world)
  const chain = findChain(runsFolder, args.run)
  return chain && { chain, runs: await world.runsWorld({ runsFolder, pythonEnv: args.pythonEnv }) }
}
