import { writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { execa } from 'execa'
import { UserError } from '../domain/errors.ts'
import { parseJobs, type SlurmJob, SlurmUnreachable } from './slurm-jobs.ts'

/*
 * Slurm's own commands, and what they answer.
 */

type Environment = Readonly<Record<string, string | undefined>>

export interface SlurmTiming {
  /** How often the controller is asked at most; every job of this process is in one answer. */
  readonly pollSeconds: number
  /** How long an ended job's exit file may be on its way. */
  readonly graceSeconds: number
  /** How long a controller that does not answer is tried again when a job is sent. */
  readonly patienceSeconds: number
  /** How long after its end a job that comes back may start; more than clocks of controller and nodes differ. */
  readonly returnSeconds: number
}

const retrySeconds = 2
const answerSeconds = 90

/** What is sent, and how it is known again. */
export interface Sending {
  readonly script: string
  readonly options: readonly string[]
  /** Which jobs are those of it. */
  readonly holds: (job: SlurmJob) => boolean
  readonly exitFiles: readonly string[]
}

export class SlurmControl {
  readonly #env: Record<string, string>
  readonly #timing: Pick<SlurmTiming, 'pollSeconds' | 'patienceSeconds'>
  #answer: { readonly at: number; readonly jobs: Promise<SlurmJob[]> } | undefined
  #next: Promise<SlurmJob[]> | undefined

  constructor(env: Environment, timing: Pick<SlurmTiming, 'pollSeconds' | 'patienceSeconds'>) {
    this.#env = slurmEnvironment(env)
    this.#timing = timing
  }

  /**
   * Sends a job or an array and returns its number. Where the controller does not answer, it may have arrived all the same, so it is
   * looked for before it is sent again; the script itself lets only one job have an attempt.
   */
  async sent({ script, options, holds, exitFiles }: Sending): Promise<string> {
    const until = Date.now() + this.#timing.patienceSeconds * 1000
    for (;;) {
      const { exitCode, stdout, stderr } = await this.run('sbatch', ['--parsable', ...options, script]).catch(unanswered)
      if (exitCode === 0) return stdout.trim().split(';')[0] ?? ''
      if (!isConnectionTrouble(stderr)) throw refused(spoken(stderr))
      const arrived = await this.#arrived(holds, until)
      if (arrived) return arrived.array?.id ?? arrived.id
      if (Date.now() >= until) {
        // A job that arrives after all finds that its attempt has ended.
        for (const exitFile of exitFiles) writeFileSync(exitFile, '{"formatVersion":1,"exitCode":null}\n')
        throw unreachable(spoken(stderr))
      }
    }
  }

  async #arrived(holds: Sending['holds'], until: number): Promise<SlurmJob | undefined> {
    for (;;) {
      await sleep(retrySeconds * 1000)
      try {
        return (await this.jobsNow()).findLast(holds)
      } catch (cause) {
        if (!(cause instanceof SlurmUnreachable) || Date.now() >= until) return undefined
      }
    }
  }

  /** An answer to a question asked from now on; those who want one while another is on its way share the next. */
  jobsNow(): Promise<SlurmJob[]> {
    this.#next ??= (this.#answer?.jobs ?? Promise.resolve([]))
      .catch(() => [])
      .then(() => {
        this.#next = undefined
        this.#answer = { at: performance.now(), jobs: this.#asked() }
        return this.#answer.jobs
      })
    return this.#next
  }

  /** All jobs with a comment, at most as old as a poll. */
  jobs(): Promise<SlurmJob[]> {
    const now = performance.now()
    if (!this.#answer || now - this.#answer.at > this.#timing.pollSeconds * 1000) this.#answer = { at: now, jobs: this.#asked() }
    return this.#answer.jobs
  }

  async #asked(): Promise<SlurmJob[]> {
    const { exitCode, stdout, stderr } = await this.run('squeue', ['--json', '--states=all'])
    if (exitCode !== 0) throw new SlurmUnreachable(stderr.trim() || `squeue ended with ${exitCode}`)
    return parseJobs(stdout)
  }

  async run(program: string, args: readonly string[], input?: string) {
    const done = await execa(program, args, {
      reject: false,
      env: this.#env,
      extendEnv: false,
      maxBuffer: 1 << 30,
      timeout: answerSeconds * 1000,
      ...(input === undefined ? { stdin: 'ignore' as const } : { input }),
    })
    if ((done.cause as NodeJS.ErrnoException | undefined)?.code === 'ENOENT') throw missing(program)
    if (done.timedOut) throw new SlurmUnreachable(`${program} gave no answer within ${answerSeconds} s`)
    return { exitCode: done.exitCode ?? 1, stdout: done.stdout, stderr: done.stderr }
  }
}

/** Without the variables of a job this process may be in itself, and those that outrank a script's options or change a command's output. */
function slurmEnvironment(env: Environment): Record<string, string> {
  const isOurs = (name: string) => name === 'SLURM_CONF' || !/^(SLURM|SBATCH|SQUEUE|SRUN|SCANCEL)_/.test(name)
  const own = Object.entries(env).filter(
    (entry): entry is [string, string] => entry[1] !== undefined && entry[0] !== 'NODE_CHANNEL_FD' && isOurs(entry[0]),
  )
  // Tasks of an array that wait are listed to the last.
  return { ...Object.fromEntries(own), SLURM_BITSTR_LEN: '0' }
}

/** A command that gave no answer in time, as one that said so. */
function unanswered(cause: unknown): { exitCode: number; stdout: string; stderr: string } {
  if (cause instanceof SlurmUnreachable) return { exitCode: 1, stdout: '', stderr: `timed out: ${cause.message}` }
  throw cause
}

export function isConnectionTrouble(stderr: string): boolean {
  return /unable to contact|timed out|connect failure|connection refused|communication|transport endpoint|zero bytes/i.test(stderr)
}

/** What sbatch says, in one line. */
export function spoken(stderr: string): string {
  return stderr
    .replaceAll(/sbatch: (error: )?/g, '')
    .trim()
    .replaceAll(/\s*\n/g, '; ')
}

function missing(program: string): UserError {
  return new UserError('SLURM_MISSING', `${program}: expected Slurm's commands on the PATH, got none`, {
    hint: 'run this on a login node of the cluster, or train with --engine local',
  })
}

export function refused(said: string): UserError {
  return new UserError('SLURM_REFUSED', `Slurm: expected it to take the job, got: ${said}`, {
    hint: 'correct the engine settings (--slurm NAME=VALUE, or the engine file); `sinfo` shows partitions and nodes',
  })
}

export function unreachable(said: string): UserError {
  return new UserError('SLURM_UNREACHABLE', `Slurm: expected an answer from its controller, got: ${said}`, {
    hint: 'try again when `sinfo` answers',
  })
}
