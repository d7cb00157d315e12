import { render } from './cli/failure.ts'
import { programOf } from './cli/program.ts'
import type { TrainingWorld } from './cli/run-world.ts'

/** Puts the parts together. The only place that reads arguments, environment and the working directory. */
const [, , ...args] = process.argv
/** Exit code of a command that Ctrl-C ended, whatever came of it. */
const interrupted = 130

const world: TrainingWorld = {
  cwd: process.cwd(),
  env: process.env,
  stdout: process.stdout,
  stderr: process.stderr,
  setExitCode: (code) => {
    if (process.exitCode !== interrupted) process.exitCode = code
  },
  packageRoot: new URL('..', import.meta.url).pathname.replace(/\/$/, ''),
  runsWorld: async ({ runsFolder, pythonEnv, chosenEngine }) => {
    const { runsWorldOf } = await import('./runs-world.ts')
    return runsWorldOf({
      cwd: process.cwd(),
      env: process.env,
      runsFolder,
      pythonEnv,
      chosenEngine,
      upstreamCheckout: process.env.STAGEWRIGHT_UPSTREAM,
    })
  },
  reportOf: async (run, runs) => (await import('./web-world.ts')).reportRun(run, runs),
  serveWeb: async (runs, options) => (await import('./web-world.ts')).serveRuns(runs, options),
  onInterrupt: (handler) => {
    let times = 0
    const listener = () => {
      process.exitCode = interrupted
      handler(++times)
    }
    process.on('SIGINT', listener)
    return () => process.off('SIGINT', listener)
  },
}

process.stdout.on('error', (cause: NodeJS.ErrnoException) => {
  if (cause.code === 'EPIPE') process.exit(0)
  throw cause
})

try {
  await programOf(args, world)
} catch (cause) {
  process.exitCode = render(cause, world)
}
// Timers of libraries that wait for a process that is gone must not hold the command.
process.exit()
