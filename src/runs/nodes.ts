import { setTimeout as sleep } from 'node:timers/promises'
import { UserError } from '../domain/errors.ts'
import { type Attempt, newestAttempt } from '../domain/run/state.ts'
import type { Job } from '../engines/engine.ts'
import { launchCommand, trainerEnvironment } from '../engines/trainer-command.ts'
import { type Run, readState } from '../store/runs.ts'
import { jobOf } from './job.ts'
import { continueRun, startRun } from './launch.ts'
import type { RunsWorld } from './world.ts'

/*
 * Several machines without a scheduler: the first supervises the run, the others only start their launcher. They share the folder.
 */

const pollMs = 500

/** Where the launchers meet: the first machine listens there. */
export interface Meeting {
  readonly host: string
  readonly port: string
}

/** The place in `--rdzv`. Raises UserError RDZV_FORM. */
export function meetingOf(text: string): Meeting {
  const [, host, port] = /^([\w.-]+|\[[\da-f:]+\]):(\d{1,5})$/i.exec(text) ?? []
  if (host !== undefined && port !== undefined && Number(port) > 0 && Number(port) < 65_536) return { host, port }
  throw new UserError('RDZV_FORM', `--rdzv ${text}: expected HOST:PORT, got another form`, {
    hint: 'the first machine’s name and a free port there, such as node1:29500',
  })
}

/** The launcher of one machine, as words and what it needs in its environment. */
export function nodeLauncher(
  run: Run,
  attempt: number,
  meeting: Meeting,
  node: number,
  world: RunsWorld,
): { command: string[]; env: Record<string, string> } {
  const job = nodesOf(jobOf(run, attempt, world.python()), node)
  return { command: launchCommand(job, { ...meeting, nodeRank: String(node) }), env: trainerEnvironment(job) }
}

function nodesOf(job: Job, node: number): Job {
  if (node >= 0 && node < job.nodes) return job
  throw new UserError('NODE_RANK', `--node-rank ${node}: expected a number from 0 to ${job.nodes - 1}, got ${node}`, {
    hint: 'the run’s parallel.nodes says how many machines it has',
  })
}

/** The attempt whose launchers are started next. */
export function nextAttempt(run: Run): number {
  const newest = newestAttempt(readState(run))
  return newest && !newest.end ? newest.number : (newest?.number ?? 0) + 1
}

/** Starts the first machine's part of the next attempt, with its supervisor. */
export async function startFirstNode(run: Run, meeting: Meeting, world: RunsWorld): Promise<void> {
  const here: RunsWorld = { ...world, chosenEngine: { formatVersion: 1, kind: 'local', meeting } }
  if (newestAttempt(readState(run))) await continueRun(run, here)
  else await startRun(run, here)
}

/** The attempt that the first machine has started. Raises UserError RUN_NOT_STARTED where it does not within a time. */
export async function startedByFirst(run: Run, patienceSeconds: number): Promise<Attempt> {
  const until = Date.now() + patienceSeconds * 1000
  for (;;) {
    const newest = newestAttempt(readState(run))
    if (newest && !newest.end) return newest
    if (Date.now() > until) {
      throw new UserError(
        'RUN_NOT_STARTED',
        `${run.id}: expected the first machine to start an attempt within ${patienceSeconds} s, got none`,
        {
          hint: `there: stagewright launch ${run.id} --rdzv HOST:PORT --node-rank 0`,
        },
      )
    }
    await sleep(pollMs)
  }
}
