import { type PhaseCost, phaseCosts } from '../domain/run/phase-costs.ts'
import { endOf, fullDiskText, newestAttempt, type RunState, waitingFor } from '../domain/run/state.ts'
import { settledState } from '../runs/supervise.ts'
import { bytesText } from './bytes-text.ts'
import { showChain } from './chain-actions.ts'
import { sayEnd } from './follow.ts'
import { showIncident } from './incident-show.ts'
import { incidentsText } from './incident-text.ts'
import { brief, duration, waitingText } from './progress.ts'
import { chainMeant, opened, type RunArguments } from './run-arguments.ts'
import type { TrainingWorld } from './run-world.ts'
import { paintFor, writeJson } from './terminal.ts'

const formatVersion = 1

export async function runShow(args: RunArguments, world: TrainingWorld): Promise<void> {
  const meant = await chainMeant(args, world)
  if (meant) return showChain(meant.chain, args.json ?? false, world, meant.runs)
  const { run, runs } = await opened(args, world)
  const state = await settledState(run, runs)
  if (args.incident !== undefined) return showIncident(run, state, args.incident, args.json ?? false, world)
  if (args.json) {
    writeJson(world.stdout, {
      formatVersion,
      run: run.identity,
      state: stateWord(state),
      end: endOf(state) ?? null,
      ...withoutPoints(state),
      phaseCosts: phaseCosts(state),
      stage: run.stage,
    })
    return
  }
  const { bold, dim } = paintFor(world.stdout, world.env)
  const held = state.heldOut
  const [first, last] = [held[0], held.at(-1)]
  const parent = run.identity.parent
  const rows: [string, string][] = [
    ['state', stateWord(state)],
    ['stage', `${run.stage.name} (${run.stage.kind})`],
    ['from', parent ? `${parent.run}@${parent.step} (${parent.use})` : (run.identity.inputs.weights ?? 'random weights')],
    ['step', `${state.step} of ${state.steps ?? run.stage.steps}`],
    ['held-out', first && last ? `${brief((first.ema ?? first.raw).loss)} → ${brief((last.ema ?? last.raw).loss)}` : '–'],
    ['attempts', String(state.attempts.length)],
    ['checkpoints', state.checkpoints.map(({ step }) => step).join(', ') || '–'],
    [
      'changes',
      state.changes.map(({ step, path, effective }) => `${path} = ${JSON.stringify(effective)} from step ${step}`).join('; ') || '–',
    ],
    ...phaseRows(phaseCosts(state)),
    ['incidents', incidentsText(state.incidents)],
    ['folder', run.folder],
  ]
  world.stdout.write(`${bold(run.id)}\n${rows.map(([name, text]) => `  ${dim(name.padEnd(12))}${text}\n`).join('')}`)
  const end = endOf(state)
  if (end) sayEnd(run, end, world, runs)
}

/** One row for each phase; none for a run that has but one. */
function phaseRows(costs: readonly PhaseCost[]): [string, string][] {
  if (costs.length < 2) return []
  return costs.map(({ index, from, to, parameters, secondsPerStep, memoryBytes, proof }) => {
    const parts = [
      ...(parameters === undefined ? [] : [`trains ${parameters.toLocaleString('en')}`]),
      `${brief(secondsPerStep)} s a step`,
      ...(memoryBytes === undefined ? [] : [bytesText(memoryBytes)]),
      ...(proof ? [proofText(proof)] : []),
    ]
    return [`phase ${index + 1}`, `steps ${from}–${to}: ${parts.join(', ')}`]
  })
}

function proofText({ frozen, frozenChanged, trainable, trainableUnmoved }: NonNullable<PhaseCost['proof']>): string {
  if (frozenChanged.length > 0) return `${frozenChanged.length} of ${frozen} frozen tensors changed`
  return `${frozen} frozen tensors bit for bit the same, ${trainable - trainableUnmoved.length} of ${trainable} moved`
}

function withoutPoints({ points, ...rest }: RunState): Omit<RunState, 'points'> & { steps: number | undefined; points: number } {
  return { ...rest, points: points.length }
}

/** One word for where a run stands. */
export function stateWord(state: RunState): string {
  const end = endOf(state)
  if (end) return end.reason
  if (!newestAttempt(state)) return 'new'
  const waiting = waitingFor(newestAttempt(state))
  if (waiting) return waitingText(waiting)
  const fullDisk = newestAttempt(state)?.fullDisk
  if (fullDisk) return fullDiskText(fullDisk)
  const age = state.lastHeardAt === undefined ? '' : `, last heard ${duration(Date.now() / 1000 - state.lastHeardAt)} ago`
  return state.steps === undefined ? `starting${age}` : `training${age}`
}
