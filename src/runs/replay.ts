import { UserError } from '../domain/errors.ts'
import type { TrainerEvent } from '../domain/protocol.ts'
import { compareReplay, type ReplayVerdict, repeatedCommands, type Surroundings, surroundingsDiffer } from '../domain/run/replay.ts'
import { newestAttempt } from '../domain/run/state.ts'
import { trainerJournal } from '../store/journal.ts'
import { createRun, filesOf, type Run, readState, writeReplay } from '../store/runs.ts'
import { refuseImported } from './launch.ts'
import { settledState } from './supervise.ts'
import type { RunsWorld } from './world.ts'

/**
 * Makes a run that repeats another from its start: the same stage, data and weights, its live changes at the same steps, up to the
 * step it reached. Raises UserErrors REPLAY_ACTIVE and REPLAY_EMPTY.
 */
export async function prepareReplay(original: Run, world: RunsWorld): Promise<Run> {
  refuseImported(original)
  const state = await settledState(original, world)
  if (!newestAttempt(state)?.end) {
    throw new UserError('REPLAY_ACTIVE', `${original.id}: expected a run that has ended, got one that trains`, {
      hint: `stagewright stop ${original.id}`,
    })
  }
  if (state.points.length === 0) {
    throw new UserError('REPLAY_EMPTY', `${original.id}: expected a run with steps to repeat, got none`, {
      hint: `stagewright show ${original.id} says how it ended`,
    })
  }
  world.python()
  const { formatVersion: _format, id: _id, stage: _stage, createdAt: _created, socket: _socket, ...identity } = original.identity
  const { runsFolder, now, random, socketFolder } = world
  const run = createRun({ runsFolder, now: now(), random, socketFolder }, original.stage, {
    ...identity,
    verb: 'replay',
    replays: original.id,
  })
  const until = state.step < (state.steps ?? original.stage.steps) ? state.step : undefined
  writeReplay(run, { commands: repeatedCommands(eventsOf(original), until) })
  return run
}

function eventsOf(run: Run): TrainerEvent[] {
  return trainerJournal(filesOf(run.folder).trainer).next()
}

export interface ReplayReport {
  readonly verdict: ReplayVerdict
  /** What differs between where both trained. */
  readonly differs: readonly string[]
}

/** How a replay came out against its original. */
export function reportReplay(original: Run, replay: Run): ReplayReport {
  const precision = original.stage.memory.precision === 'fp32' ? 'full' : 'half'
  const [a, b] = [placeOf(original), placeOf(replay)]
  return {
    verdict: compareReplay(readState(original).points, readState(replay).points, precision),
    differs: a && b ? surroundingsDiffer(a, b) : [],
  }
}

function placeOf(run: Run): Surroundings | undefined {
  return eventsOf(run).find((event) => event.event === 'ready')
}
