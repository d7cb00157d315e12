import { z } from 'zod'
import type { EndReason } from '../domain/protocol.ts'
import type { EndedJob, JobStatus } from './engine.ts'

/*
 * What Slurm says of its jobs. Its JSON changed over the years: numbers became `{set, infinite, number}`, a state became a list of
 * states and flags. Both forms are read.
 */

const number = z
  .union([
    z.number(),
    z.looseObject({ number: z.number(), set: z.boolean().optional(), infinite: z.boolean().optional() }).transform((value) => {
      return value.set === false || value.infinite ? 0 : value.number
    }),
  ])
  .nullish()
  .transform((value) => value ?? 0)

const job = z.looseObject({
  job_id: number,
  job_state: z.union([z.string().transform((state) => [state]), z.array(z.string())]),
  state_reason: z.string().nullish(),
  comment: z.string().nullish(),
  eligible_time: number,
  end_time: number,
  restart_cnt: number,
  array_job_id: number,
  array_task_id: z.unknown(),
  array_task_string: z.string().nullish(),
})

const answer = z.looseObject({
  errors: z.array(z.looseObject({ description: z.string().nullish(), error: z.string().nullish() })).nullish(),
  jobs: z.array(z.unknown()),
})

export interface SlurmJob {
  readonly id: string
  readonly token: string
  /** Number of the array it belongs to, and which of its tasks it is or stands for; undefined for a job alone. */
  readonly array: { readonly id: string; readonly tasks: string } | undefined
  readonly states: readonly string[]
  readonly reason: string
  /** Seconds since 1970; 0 where there is none. */
  readonly eligibleAt: number
  readonly endedAt: number
  readonly restarts: number
}

/** Raised where the controller could not be asked: nothing is known then, least of all that a job is gone. */
export class SlurmUnreachable extends Error {}

/**
 * Jobs in the answer of `squeue --json` that carry a comment. Raises SlurmUnreachable where it holds errors: squeue then exits with 0 and
 * an empty list, which must not be taken for an empty queue.
 */
export function parseJobs(text: string): SlurmJob[] {
  const parsed = answer.safeParse(parseJson(text))
  if (!parsed.success) throw new SlurmUnreachable('squeue gave an answer of another form')
  const [error] = parsed.data.errors ?? []
  if (error) throw new SlurmUnreachable(error.description ?? error.error ?? 'squeue reports an error')
  return parsed.data.jobs.flatMap((entry) => {
    const read = job.safeParse(entry)
    return read.success && read.data.comment ? [jobOf(read.data, read.data.comment)] : []
  })
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    throw new SlurmUnreachable('squeue gave no JSON')
  }
}

function jobOf(raw: z.output<typeof job>, comment: string): SlurmJob {
  const task = number.safeParse(raw.array_task_id)
  const isArray = raw.array_job_id > 0
  // Tasks that wait stand in one entry.
  const waiting = isArray && raw.array_task_string ? raw.array_task_string : undefined
  const isTask = isArray && waiting === undefined && raw.array_task_id != null && task.success
  const id = String(raw.array_job_id)
  return {
    id: isTask ? `${id}_${task.data}` : String(raw.job_id),
    token: comment,
    array: waiting !== undefined ? { id, tasks: waiting } : isTask ? { id, tasks: String(task.data) } : undefined,
    states: raw.job_state,
    reason: raw.state_reason ?? 'None',
    eligibleAt: raw.eligible_time,
    endedAt: raw.end_time,
    restarts: raw.restart_cnt,
  }
}

/** A task of an array among the jobs of an answer, alone or in the entry of those that wait. */
export function taskIn(job: SlurmJob, { token, task }: { readonly token: string; readonly task: number }): SlurmJob | undefined {
  if (job.token !== token || !job.array || !holdsTask(job.array.tasks, task)) return undefined
  return { ...job, id: `${job.array.id}_${task}` }
}

/** Whether `0-3,7,10-20:2%4` names a number. What was cut off may. */
function holdsTask(tasks: string, task: number): boolean {
  const [named = ''] = tasks.split('%')
  return named.split(',').some((part) => {
    const [, from, to = from, step = '1'] = /^(\d+)(?:-(\d+))?(?::(\d+))?$/.exec(part) ?? []
    if (from === undefined) return part.endsWith('...')
    return task >= Number(from) && task <= Number(to) && (task - Number(from)) % Math.max(1, Number(step)) === 0
  })
}

/** How a job ended that left no status of its own. */
const ends: Readonly<Record<string, readonly [EndReason, string]>> = {
  COMPLETED: ['failed', 'Slurm says it completed, yet it left no status'],
  FAILED: ['failed', 'Slurm says it failed'],
  CANCELLED: ['killed', 'it was cancelled in Slurm'],
  REVOKED: ['killed', 'it was revoked in Slurm'],
  PREEMPTED: ['killed', 'Slurm preempted it and did not put it back into the queue'],
  TIMEOUT: ['killed', 'Slurm ended it at its time limit'],
  DEADLINE: ['killed', 'Slurm ended it at its deadline'],
  OUT_OF_MEMORY: ['out-of-memory', 'Slurm ended it: it used more memory than it had asked for'],
  NODE_FAIL: ['lost', 'one of its machines failed'],
  BOOT_FAIL: ['lost', 'one of its machines did not start'],
  LAUNCH_FAILED: ['lost', 'Slurm could not start it'],
}

/** A status as Slurm tells it. An ended job counts as running for a moment: its exit file may be on its way over shared storage. */
export function statusOf(job: SlurmJob, now: number, graceSeconds: number): JobStatus {
  const has = (state: string) => job.states.includes(state)
  const end = job.states.find((state) => ends[state] !== undefined)
  if (has('PENDING') || has('REQUEUED') || has('REQUEUE_HOLD') || has('SPECIAL_EXIT')) {
    return { state: 'queued', why: job.reason, eligibleAt: job.eligibleAt > now ? job.eligibleAt : null, restarts: job.restarts }
  }
  if (end === undefined || has('COMPLETING') || now - job.endedAt < graceSeconds) return { state: 'running' }
  return endedAs(end, job.id)
}

function endedAs(state: string, id: string): EndedJob {
  const [reason, message] = ends[state] ?? ['lost', 'Slurm does not know it']
  return { state: 'ended', exitCode: null, signal: null, told: { reason, message: `${message} (job ${id}, ${state})` } }
}

/** Whether a job is still in the queue or on its machines. */
export function isLive({ states }: SlurmJob): boolean {
  return !states.some((state) => ends[state] !== undefined) || states.includes('COMPLETING')
}
