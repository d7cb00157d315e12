import { execa } from 'execa'
import { runsFolderOf } from './folders.ts'
import type { RunOptions, TrainingWorld } from './run-world.ts'

export interface ParityArguments extends RunOptions {
  cases: string[]
  json: boolean
}

/** Runs the cases in Python, whose output and exit code are the command's own. */
export async function runParity({ cases, json, runs, pythonEnv }: ParityArguments, world: TrainingWorld): Promise<void> {
  const { python: find } = await world.runsWorld({ runsFolder: runsFolderOf(runs, world), pythonEnv })
  const { python, pythonPath } = find()
  const { exitCode } = await execa(python, ['-m', 'osplan.parity', ...cases, ...(json ? ['--json'] : [])], {
    cwd: world.cwd,
    env: { PYTHONPATH: pythonPath },
    stdio: 'inherit',
    reject: false,
  })
  world.setExitCode(exitCode ?? 2)
}
