import { endOf } from '../domain/run/state.ts'
import { settledState } from '../runs/supervise.ts'
import { listChains } from '../store/chains.ts'
import { listRuns } from '../store/runs.ts'
import { chainWord } from './chain-actions.ts'
import { runsFolderOf } from './folders.ts'
import { brief } from './progress.ts'
import type { RunOptions, TrainingWorld } from './run-world.ts'
import { stateWord } from './show-run.ts'
import { paintFor, writeJson } from './terminal.ts'

export interface RunsArguments extends RunOptions {
  json: boolean
}

const formatVersion = 1

/** Lists the runs; a run whose supervisor is gone is settled first, so that nothing says "training" that does not train. */
export async function printRuns(args: RunsArguments, world: TrainingWorld): Promise<void> {
  const runsFolder = runsFolderOf(args.runs, world)
  const runs = await world.runsWorld({ runsFolder, pythonEnv: args.pythonEnv })
  const rows = await Promise.all(
    listRuns(runsFolder).map(async (run) => {
      const state = await settledState(run, runs)
      const last = state.heldOut.at(-1)
      return {
        id: run.id,
        stage: run.stage.name,
        kind: run.stage.kind,
        parent: run.identity.parent?.run ?? null,
        state: stateWord(state),
        step: state.step,
        steps: state.steps ?? run.stage.steps,
        heldOutLoss: last ? (last.ema ?? last.raw).loss : null,
        learningRate: state.points.at(-1)?.learningRate ?? null,
        end: endOf(state)?.reason ?? null,
      }
    }),
  )
  const chains = listChains(runsFolder).map((chain) => ({
    id: chain.id,
    state: chainWord(chain, runs),
    stages: chain.identity.stages.map(({ name }) => name),
  }))
  if (args.json) {
    writeJson(world.stdout, { formatVersion, runs: rows, chains })
    return
  }
  if (rows.length === 0) {
    world.stdout.write(`no runs under ${runsFolder}\n`)
    return
  }
  const { bold, dim } = paintFor(world.stdout, world.env)
  const width = Math.max(...rows.map(({ id }) => id.length))
  world.stdout.write(dim(`${'run'.padEnd(width)}  ${'step'.padStart(11)}  ${'held-out'.padStart(9)}  state\n`))
  for (const { id, step, steps, heldOutLoss, state } of rows) {
    world.stdout.write(
      `${bold(id.padEnd(width))}  ${`${step}/${steps}`.padStart(11)}  ${brief(heldOutLoss ?? undefined).padStart(9)}  ${state}\n`,
    )
  }
  const open = chains.filter(({ state }) => state !== 'completed')
  if (open.length > 0) world.stdout.write(`${dim('chains that are not done')}\n`)
  for (const { id, state, stages } of open) world.stdout.write(`${bold(id)}  ${stages.join(' → ')}  ${state}\n`)
}
