import type { ProcessIdentity } from '../domain/protocol.ts'

/** What an attempt's job is known by, also to those who have lost its handle. */
export interface JobPlace {
  readonly runFolder: string
  readonly attempt: number
  /** Name of the engine that has the job. */
  readonly engine: string
  /** Words no other attempt of any run has; a cluster's scheduler keeps them with the job. */
  readonly token: string
  /** File the exit status is written to, atomically, by the launcher itself. */
  readonly exitFile: string
}

/** One attempt to be started. */
export interface Job extends JobPlace {
  /** What the engine was told beside the stage; each engine knows its own. */
  readonly settings: unknown
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
}

export type LocalHandle = { readonly kind: 'local'; readonly process: ProcessIdentity }

/** What an engine remembers of a started job, kept in the supervisor's journal. */
export type JobHandle = LocalHandle

/** How a job stands. */
export type JobStatus =
  | { readonly state: 'running' }
  /** Not to be seen from here; with `untilSilent` a run that says nothing for long is taken for ended. */
  | { readonly state: 'unseen'; readonly why: string; readonly untilSilent: boolean }
  | EndedJob

/** An ended job. One without a status was killed together with its launcher. */
export interface EndedJob {
  readonly state: 'ended'
  readonly exitCode: number | null
  readonly signal: string | null
}

/** Starts, finds and signals trainer processes; this machine is one, a cluster another. Jobs outlive the process that starts them. */
export interface Engine {
  readonly name: string
  submit(job: Job): Promise<JobHandle>
  /** The line that a job is started with. */
  command(job: Job): readonly string[]
  /** How the job stands now; one whose handle was lost with who started it is looked for. */
  observe(handle: JobHandle | undefined, place: JobPlace): Promise<JobStatus>
  /** Asks the job to end; `KILL` leaves it no choice. */
  signal(handle: JobHandle | undefined, place: JobPlace, signal: 'TERM' | 'KILL'): Promise<void>
  /** Ranks of an attempt that live here, also before they have said anything and after their launcher is gone. */
  ranks(runFolder: string, attempt: number): ProcessIdentity[]
  /** Ends what a job left behind. */
  reconcile(ranks: readonly ProcessIdentity[]): void
  /** The last lines of a job's log. */
  logs(log: string, lines: number): string[]
}
