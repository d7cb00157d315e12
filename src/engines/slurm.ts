import { existsSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { execa } from 'execa'
import type { SlurmSettings } from '../domain/engine-choice.ts'
import { UserError } from '../domain/errors.ts'
import type { ProcessIdentity } from '../domain/protocol.ts'
import type { Engine, Job, JobPlace, JobStatus, SlurmHandle } from './engine.ts'
import { exitStatus, lastLines } from './remains.ts'
import { isLive, parseJobs, type SlurmJob, SlurmUnreachable, statusOf } from './slurm-jobs.ts'
import { batchScript } from './slurm-script.ts'

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

const usual: SlurmTiming = { pollSeconds: 5, graceSeconds: 15, patienceSeconds: 600, returnSeconds: 10 }
const retrySeconds = 2
const answerSeconds = 90

/**
 * A Slurm cluster, through its own commands. A job is found by the words we put into its comment, never by its number alone: a
 * controller that is killed may forget a job it has acknowledged and give its number to another. Accounting (`sacct`) is not needed.
 */
export class SlurmEngine implements Engine {
  readonly name = 'slurm'
  readonly #env: Record<string, string>
  readonly #timing: SlurmTiming
  #answer: { readonly at: number; readonly jobs: Promise<SlurmJob[]> } | undefined

  constructor(env: Environment, timing: Partial<SlurmTiming> = {}) {
    this.#env = slurmEnvironment(env)
    this.#timing = { ...usual, ...timing }
  }

  async submit(job: Job): Promise<SlurmHandle> {
    writeFileSync(job.script, this.render(job), { mode: 0o700 })
    return { kind: 'slurm', jobId: await this.#sent(job) }
  }

  command(job: Job): readonly string[] {
    return ['sbatch', '--parsable', job.script]
  }

  async observe(_: SlurmHandle | undefined, place: JobPlace): Promise<JobStatus> {
    if (existsSync(place.exitFile)) return exitStatus(place.exitFile)
    try {
      const known = await this.#jobsOf(place)
      // An answer from before the job was sent does not mean that it is gone.
      const jobs = known.length > 0 ? known : await this.#jobsNow(place)
      const job = jobs.find(isLive) ?? jobs.at(-1)
      const status: JobStatus = job
        ? statusOf(job, Date.now() / 1000, this.#timing.graceSeconds)
        : { state: 'ended', exitCode: null, signal: null }
      // It may have ended while Slurm answered.
      return status.state === 'ended' && existsSync(place.exitFile) ? exitStatus(place.exitFile) : status
    } catch (cause) {
      // A machine without Slurm's commands sees as little of the job as one whose controller is down.
      if (!(cause instanceof SlurmUnreachable || (cause instanceof UserError && cause.code === 'SLURM_MISSING'))) throw cause
      return { state: 'unseen', why: cause.message, untilSilent: false }
    }
  }

  /**
   * Not at once: a node takes a start within the second in which it ended the job, by its own clock, for one with a revoked credential,
   * and Slurm then ends the job for good. Its usual wait of two minutes is there for that.
   */
  async hasten(place: JobPlace): Promise<void> {
    const start = `StartTime=now+${this.#timing.returnSeconds}`
    for (const { id } of await this.#live(place)) await this.#run('scontrol', ['update', `JobId=${id}`, start])
  }

  /** Raises UserError SLURM_UNREACHABLE where the controller does not answer: the job is as it was. */
  async signal(_: SlurmHandle | undefined, place: JobPlace, signal: 'TERM' | 'KILL'): Promise<void> {
    try {
      for (const { id } of await this.#live(place)) {
        // Without a signal a job is asked, and killed after the cluster's KillWait; the batch shell belongs to it too.
        if (signal === 'KILL') await this.#run('scancel', ['--full', '--signal=KILL', id])
        await this.#run('scancel', [id])
      }
    } catch (cause) {
      throw cause instanceof SlurmUnreachable ? unreachable(cause.message) : cause
    }
  }

  /** Ranks of a cluster's job are the cluster's to end. */
  ranks(): ProcessIdentity[] {
    return []
  }

  reconcile(): void {}

  logs(log: string, lines: number): string[] {
    return lastLines(log, lines)
  }

  render(job: Job): string {
    return batchScript(job, settingsOf(job))
  }

  /** As `sbatch --test-only` says it. Raises UserErrors SLURM_REFUSED and SLURM_UNREACHABLE. */
  async forecast(job: Job): Promise<string> {
    // The folder of a run that is not made yet would be refused.
    const asked = this.render(job).replace(/^#SBATCH --chdir=.*\n/m, '')
    const { exitCode, stderr } = await this.#run('sbatch', ['--test-only'], asked)
    const said = spoken(stderr).replace(/^Job \d+ to start/, 'to start')
    if (exitCode === 0) return said
    throw isConnectionTrouble(stderr) ? unreachable(said) : refused(said)
  }

  /**
   * Sends a job and returns its number. Where the controller does not answer, the job may have arrived all the same, so it is looked
   * for before it is sent again; the script itself lets only one job have an attempt.
   */
  async #sent(job: Job): Promise<string> {
    const until = Date.now() + this.#timing.patienceSeconds * 1000
    for (;;) {
      const { exitCode, stdout, stderr } = await this.#run('sbatch', ['--parsable', job.script]).catch(unanswered)
      if (exitCode === 0) return stdout.trim().split(';')[0] ?? ''
      if (!isConnectionTrouble(stderr)) throw refused(spoken(stderr))
      const arrived = await this.#arrived(job, until)
      if (arrived) return arrived.id
      if (Date.now() >= until) {
        // A job that arrives after all finds that its attempt has ended.
        writeFileSync(job.exitFile, '{"formatVersion":1,"exitCode":null}\n')
        throw unreachable(spoken(stderr))
      }
    }
  }

  async #arrived(place: JobPlace, until: number): Promise<SlurmJob | undefined> {
    for (;;) {
      await sleep(retrySeconds * 1000)
      try {
        return (await this.#jobsNow(place)).at(-1)
      } catch (cause) {
        if (!(cause instanceof SlurmUnreachable) || Date.now() >= until) return undefined
      }
    }
  }

  async #live(place: JobPlace): Promise<SlurmJob[]> {
    return (await this.#jobsNow(place)).filter(isLive)
  }

  async #jobsNow(place: JobPlace): Promise<SlurmJob[]> {
    this.#answer = undefined
    return this.#jobsOf(place)
  }

  async #jobsOf({ token }: JobPlace): Promise<SlurmJob[]> {
    return (await this.#jobs()).filter((job) => job.token === token)
  }

  #jobs(): Promise<SlurmJob[]> {
    const now = performance.now()
    if (!this.#answer || now - this.#answer.at > this.#timing.pollSeconds * 1000) this.#answer = { at: now, jobs: this.#asked() }
    return this.#answer.jobs
  }

  async #asked(): Promise<SlurmJob[]> {
    const { exitCode, stdout, stderr } = await this.#run('squeue', ['--json', '--states=all'])
    if (exitCode !== 0) throw new SlurmUnreachable(stderr.trim() || `squeue ended with ${exitCode}`)
    return parseJobs(stdout)
  }

  async #run(program: string, args: readonly string[], input?: string) {
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

function settingsOf({ choice }: Job): SlurmSettings {
  if (choice.kind !== 'slurm') throw new Error(`a ${choice.kind} job was sent to Slurm`)
  return choice.slurm
}

/** Without the variables of a job this process may be in itself, and those that outrank a script's options or change a command's output. */
function slurmEnvironment(env: Environment): Record<string, string> {
  const isOurs = (name: string) => name === 'SLURM_CONF' || !/^(SLURM|SBATCH|SQUEUE|SRUN|SCANCEL)_/.test(name)
  return Object.fromEntries(
    Object.entries(env).filter(
      (entry): entry is [string, string] => entry[1] !== undefined && entry[0] !== 'NODE_CHANNEL_FD' && isOurs(entry[0]),
    ),
  )
}

/** A command that gave no answer in time, as one that said so. */
function unanswered(cause: unknown): { exitCode: number; stdout: string; stderr: string } {
  if (cause instanceof SlurmUnreachable) return { exitCode: 1, stdout: '', stderr: `timed out: ${cause.message}` }
  throw cause
}

function isConnectionTrouble(stderr: string): boolean {
  return /unable to contact|timed out|connect failure|connection refused|communication|transport endpoint|zero bytes/i.test(stderr)
}

/** What sbatch says, in one line. */
function spoken(stderr: string): string {
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

function refused(said: string): UserError {
  return new UserError('SLURM_REFUSED', `Slurm: expected it to take the job, got: ${said}`, {
    hint: 'correct the engine settings (--slurm NAME=VALUE, or the engine file); `sinfo` shows partitions and nodes',
  })
}

function unreachable(said: string): UserError {
  return new UserError('SLURM_UNREACHABLE', `Slurm: expected an answer from its controller, got: ${said}`, {
    hint: 'try again when `sinfo` answers',
  })
}
