import type { EngineChoice } from '../domain/engine-choice.ts'
import type { RunsWorld } from '../runs/world.ts'
import type { World } from './terminal.ts'

/** What commands that train need beside the terminal. */
export interface TrainingWorld extends World {
  /** The use cases' world over a folder of runs. */
  readonly runsWorld: (options: {
    runsFolder: string
    pythonEnv?: string | undefined
    chosenEngine?: EngineChoice | undefined
  }) => Promise<RunsWorld>
  /** Calls back at each Ctrl-C, with how often it was pressed; returns how to stop listening. */
  readonly onInterrupt: (handler: (times: number) => void) => () => void
  /** The page over a folder of runs: its server. Ends when it is closed. */
  readonly serveWeb: (runs: RunsWorld, options: { port: number; newTokens: boolean }) => Promise<ServedPage>
  /** A run as one HTML file that needs no network. */
  readonly reportOf: (run: string, runs: RunsWorld) => Promise<string>
  /** Folder of the package, for the files it ships. */
  readonly packageRoot: string
}

export interface ServedPage {
  /** Address for whoever may change something, and for whoever may look. */
  readonly controlUrl: string
  readonly readUrl: string
  readonly port: number
  readonly close: () => Promise<void>
}

/** `--runs` and `--python-env`, shared by every command about runs. */
export const runOptions = {
  runs: { type: 'string', describe: 'folder of the runs (STAGEWRIGHT_RUNS, or runs here)' },
  pythonEnv: { type: 'string', describe: 'Python environment to train with (STAGEWRIGHT_PYTHON_ENV)' },
} as const

export interface RunOptions {
  runs: string | undefined
  pythonEnv: string | undefined
}
