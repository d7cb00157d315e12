import type { PythonEnvironment } from '../bridge/environment.ts'
import type { EngineChoice } from '../domain/engine-choice.ts'
import type { Resources } from '../domain/queue/queue.ts'
import type { Engine } from '../engines/engine.ts'

/** What the use cases need from outside; `main` and `api` put it together. */
export interface RunsWorld {
  readonly cwd: string
  readonly runsFolder: string
  readonly engine: Engine
  /** The same engine with a Python beside it that forks trainers of one process without a cold start; what that prints goes to a file. */
  readonly warmEngine: (log: string) => { readonly engine: Engine; readonly close: () => void }
  /** Where runs that are started train; undefined leaves each where it was, new ones on this machine. */
  readonly chosenEngine?: EngineChoice | undefined
  /** What this machine has for its queue to share out. */
  readonly resources: () => Promise<Resources>
  /** Finds the Python that trains, when it is needed. */
  readonly python: () => PythonEnvironment
  /** Starts the detached supervisor of an attempt; what it prints goes to a file. */
  readonly startSupervisor: (runFolder: string, attempt: number, log: string) => Promise<StartedProcess>
  /** Starts the detached driver of a chain, a hidden command of this program, in the chain's folder; what it prints goes to a file. */
  readonly startDriver: (command: string, folder: string, log: string) => Promise<StartedProcess>
  readonly now: () => Date
  readonly random: (digits: number) => string
  readonly socketFolder: string
  /** Who acts, for the journal: user and host. */
  readonly actor: string
  readonly upstreamCheckout?: string | undefined
}

export interface StartedProcess {
  /** Whether its process has ended. */
  readonly hasEnded: () => boolean
}
