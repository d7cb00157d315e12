import type { PythonEnvironment } from '../bridge/environment.ts'
import type { Engine } from '../engines/engine.ts'

/** What the use cases need from outside; `main` and `api` put it together. */
export interface RunsWorld {
  readonly cwd: string
  readonly runsFolder: string
  readonly engine: Engine
  /** Finds the Python that trains, when it is needed. */
  readonly python: () => PythonEnvironment
  /** Starts the detached supervisor of a run. */
  readonly startSupervisor: (runFolder: string) => Promise<void>
  readonly now: () => Date
  readonly random: (digits: number) => string
  readonly socketFolder: string
  /** Who acts, for the journal: user and host. */
  readonly actor: string
  readonly upstreamCheckout?: string | undefined
}
