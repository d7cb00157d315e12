import { existsSync, writeFileSync } from 'node:fs'
import { UserError } from '../domain/errors.ts'
import type { ProcessIdentity } from '../domain/protocol.ts'
import type { Engine, Job, JobPlace, JobStatus, SlurmHandle } from './engine.ts'
import { exitStatus, lastLines } from './remains.ts'
import { type ArrayTask, keptTask, SlurmArrays } from './slurm-array.ts'
import { isConnectionTrouble, refused, SlurmControl, type SlurmTiming, spoken, unreachable } from './slurm-control.ts'
import { isLive, type SlurmJob, SlurmUnreachable, statusOf, taskIn } from './slurm-jobs.ts'
import { batchScript, settingsOf } from './slurm-script.ts'

const usual: SlurmTiming = { pollSeconds: 5, graceSeconds: 15, patienceSeconds: 600, returnSeconds: 10 }

/**
 * A Slurm cluster, through its own commands. A job is found by the words we put into its comment, never by its number alone: a
 * controller that is killed may forget a job it has acknowledged and give its number to another. Accounting (`sacct`) is not needed.
 */
export class SlurmEngine implements Engine {
  readonly name = 'slurm'
  readonly arrays: SlurmArrays
  readonly #control: SlurmControl
  readonly #timing: SlurmTiming
  readonly #tasks = new Map<string, ArrayTask>()

  constructor(env: Readonly<Record<string, string | undefined>>, timing: Partial<SlurmTiming> = {}) {
    this.#timing = { ...usual, ...timing }
    this.#control = new SlurmControl(env, this.#timing)
    this.arrays = new SlurmArrays(this.#control)
  }

  async submit(job: Job): Promise<SlurmHandle> {
    writeFileSync(job.script, this.render(job), { mode: 0o700 })
    const holds = ({ token }: SlurmJob) => token === job.token
    return { kind: 'slurm', jobId: await this.#control.sent({ script: job.script, options: [], holds, exitFiles: [job.exitFile] }) }
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
    for (const { id } of await this.#live(place)) await this.#control.run('scontrol', ['update', `JobId=${id}`, start])
  }

  /** Raises UserError SLURM_UNREACHABLE where the controller does not answer: the job is as it was. */
  async signal(_: SlurmHandle | undefined, place: JobPlace, signal: 'TERM' | 'KILL'): Promise<void> {
    try {
      for (const { id } of await this.#live(place)) {
        // Without a signal a job is asked, and killed after the cluster's KillWait; the batch shell belongs to it too.
        if (signal === 'KILL') await this.#control.run('scancel', ['--full', '--signal=KILL', id])
        await this.#control.run('scancel', [id])
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
    const { exitCode, stderr } = await this.#control.run('sbatch', ['--test-only'], asked)
    const said = spoken(stderr).replace(/^Job \d+ to start/, 'to start')
    if (exitCode === 0) return said
    throw isConnectionTrouble(stderr) ? unreachable(said) : refused(said)
  }

  async #live(place: JobPlace): Promise<SlurmJob[]> {
    return (await this.#jobsNow(place)).filter(isLive)
  }

  async #jobsNow(place: JobPlace): Promise<SlurmJob[]> {
    return this.#among(await this.#control.jobsNow(), place)
  }

  async #jobsOf(place: JobPlace): Promise<SlurmJob[]> {
    return this.#among(await this.#control.jobs(), place)
  }

  #among(jobs: readonly SlurmJob[], place: JobPlace): SlurmJob[] {
    const task = this.#tasks.get(place.exitFile) ?? keptTask(place)
    if (!task) return jobs.filter((job) => job.token === place.token)
    this.#tasks.set(place.exitFile, task)
    return jobs.flatMap((job) => taskIn(job, task) ?? [])
  }
}
