import type { EngineChoice } from '../domain/engine-choice.ts'
import type { EndReason, ProcessIdentity } from '../domain/protocol.ts'

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

/** Enough of a place to find ranks by. */
export type RankPlace = Pick<JobPlace, 'runFolder' | 'attempt' | 'engine'>

/** One attempt to be started. */
export interface Job extends JobPlace {
  /** What was chosen for its engine beside the stage. */
  readonly choice: EngineChoice
  readonly processes: number
  readonly nodes: number
  /** Whether ranks may want a GPU each. */
  readonly wantsGpus: boolean
  /** CPU threads per rank; null leaves it to the trainer. */
  readonly threads: number | null
  /** Python that has the trainer's packages. */
  readonly python: string
  /** Folder that holds the `osplan` package. */
  readonly pythonPath: string
  /** File that stdout and stderr of all ranks go to. */
  readonly log: string
  /** File for the script that a scheduler starts the job with. */
  readonly script: string
}

export type LocalHandle = { readonly kind: 'local'; readonly process: ProcessIdentity }

export type SlurmHandle = { readonly kind: 'slurm'; readonly jobId: string }

/** What an engine remembers of a started job, kept in the supervisor's journal. */
export type JobHandle = LocalHandle | SlurmHandle

/** How a job stands. */
export type JobStatus =
  | { readonly state: 'running' }
  | QueuedJob
  /** Not to be seen from here; with `untilSilent` a run that says nothing for long is taken for ended. */
  | { readonly state: 'unseen'; readonly why: string; readonly untilSilent: boolean }
  | EndedJob

/** A job that waits for its machines, for the first time or again. */
export interface QueuedJob {
  readonly state: 'queued'
  /** Why, in the scheduler's word. */
  readonly why: string
  /** Seconds since 1970 before which it will not start; null where it may start at once. */
  readonly eligibleAt: number | null
  /** How often it has been started before. */
  readonly restarts: number
}

/** An ended job. One without a status was killed together with its launcher. */
export interface EndedJob {
  readonly state: 'ended'
  readonly exitCode: number | null
  readonly signal: string | null
  /** How often it was started without leaving a newer checkpoint, where that is why it is not started again. */
  readonly futileStarts?: number
  /** What a scheduler says of a job that left no status. */
  readonly told?: { readonly reason: EndReason; readonly message: string }
}

/** Where several jobs that are sent as one are described, and how many of them may run at a time. */
export interface ArrayPlace {
  readonly folder: string
  readonly atATime: number
}

/** Several jobs sent as one, by engines that know such a thing: a scheduler then has them all, and lets a few run at a time. */
export interface JobArrays {
  /** How many jobs one array may have; 0 where there are none. */
  largest(): Promise<number>
  /** Sends jobs in as few arrays as can be, each after the one before; what came of each job, in their order. */
  submit(jobs: readonly Job[], place: ArrayPlace): Promise<PromiseSettledResult<JobHandle>[]>
  /** The scripts that would be sent. */
  render(jobs: readonly Job[], place: ArrayPlace): Promise<string[]>
}

/** Starts, finds and signals trainer processes; this machine is one, a cluster another. Jobs outlive the process that starts them. */
export interface Engine {
  readonly name: string
  readonly arrays?: JobArrays | undefined
  submit(job: Job): Promise<JobHandle>
  /** The line that a job is started with. */
  command(job: Job): readonly string[]
  /** The program a job would be started with: a script, or a line. */
  render(job: Job): string
  /** When and where it would start, in the engine's words, without starting it. Raises UserError where it never would. */
  forecast(job: Job): Promise<string>
  /** How the job stands now; one whose handle was lost with who started it is looked for. */
  observe(handle: JobHandle | undefined, place: JobPlace): Promise<JobStatus>
  /** Asks for a queued job to start without waiting out its time; what comes of it shows in how the job stands. */
  hasten(place: JobPlace): Promise<void>
  /** Asks the job to end; `KILL` leaves it no choice. */
  signal(handle: JobHandle | undefined, place: JobPlace, signal: 'TERM' | 'KILL'): Promise<void>
  /** Ranks of an attempt that live here, also before they have said anything and after their launcher is gone. */
  ranks(place: RankPlace): ProcessIdentity[]
  /** Ends what a job left behind. */
  reconcile(ranks: readonly ProcessIdentity[]): void
  /** The last lines of a job's log. */
  logs(log: string, lines: number): string[]
}
