import type { ProcessIdentity } from '../domain/protocol.ts'

/** One attempt to be started. */
export interface Job {
  readonly runFolder: string
  readonly attempt: number
  readonly processes: number
  readonly nodes: number
  /** CPU threads per rank; null leaves it to the trainer. */
  readonly threads: number | null
  /** Python that has the trainer's packages. */
  readonly python: string
  /** Folder that holds the `osplan` package. */
  readonly pythonPath: string
  /** File that stdout and stderr of all ranks go to. */
  readonly log: string
  /** File the exit status is written to, atomically, by the launcher itself. */
  readonly exitFile: string
}

/** What an engine remembers of a started job, kept in the supervisor's journal. */
export type JobHandle = { readonly kind: 'local'; readonly process: ProcessIdentity }

/** How a job stands. An ended one without a status was killed together with its launcher. */
export type JobStatus =
  | { readonly state: 'running' }
  | { readonly state: 'ended'; readonly exitCode: number | null; readonly signal: string | null }

/** Starts, finds and signals trainer processes; this machine is one, a cluster another. */
export interface Engine {
  readonly name: string
  /** Starts a job that outlives this process. */
  submit(job: Job): Promise<JobHandle>
  /** The line that a job is started with. */
  command(job: Job): readonly string[]
  /** A job whose handle was lost with the one who started it; undefined where none runs. */
  find(exitFile: string): JobHandle | undefined
  /** How the job stands now. One of another host counts as running until its exit file is there, one without a handle as ended. */
  observe(handle: JobHandle | undefined, exitFile: string): JobStatus
  /** Asks the job to end; `KILL` leaves it no choice. */
  signal(handle: JobHandle, signal: 'TERM' | 'KILL'): void
  /** Ranks of an attempt that live here, also before they have said anything and after their launcher is gone. */
  ranks(runFolder: string, attempt: number): ProcessIdentity[]
  /** Ends what a job left behind. */
  reconcile(ranks: readonly ProcessIdentity[]): void
  /** The last lines of a job's log. */
  logs(log: string, lines: number): string[]
}
