import { randomBytes } from 'node:crypto'
import { accessSync, closeSync, constants, openSync } from 'node:fs'
import { hostname, tmpdir, userInfo } from 'node:os'
import { join, resolve } from 'node:path'
import { execa } from 'execa'
import { findPython } from './bridge/environment.ts'
import type { EngineChoice } from './domain/engine-choice.ts'
import { Engines } from './engines/engines.ts'
import { LocalEngine } from './engines/local.ts'
import { machineResources } from './engines/machine.ts'
import { SlurmEngine } from './engines/slurm.ts'
import type { SlurmTiming } from './engines/slurm-control.ts'
import { PooledEngine, WarmPool } from './engines/warm-pool.ts'
import type { RunsWorld, StartedProcess } from './runs/world.ts'
import { makeFolder } from './store/files.ts'

/** Folder of this package: the checkout, or where it is installed. */
export const packageRoot = join(import.meta.dirname, '..')

/** The world of the use cases on this machine. */
export function runsWorldOf(place: {
  cwd: string
  env: Readonly<Record<string, string | undefined>>
  runsFolder: string
  pythonEnv?: string | undefined
  chosenEngine?: EngineChoice | undefined
  upstreamCheckout?: string | undefined
}): RunsWorld {
  const { cwd } = place
  const runsFolder = resolve(cwd, place.runsFolder)
  const chosen = place.pythonEnv ?? place.env.STAGEWRIGHT_PYTHON_ENV
  // The supervisor and the trainer work in other folders, and find Python by this alone.
  const env = chosen ? { ...place.env, STAGEWRIGHT_PYTHON_ENV: resolve(cwd, chosen) } : place.env
  const engine = new Engines(new LocalEngine(env), new SlurmEngine(env, slurmTiming(env.STAGEWRIGHT_SLURM_POLL_SECONDS)))
  const socketFolder = socketFolderOf(env.XDG_RUNTIME_DIR)
  return {
    cwd,
    runsFolder,
    engine,
    warmEngine: (log) => {
      makeFolder(socketFolder)
      const socket = join(socketFolder, `pool-${process.pid}-${randomBytes(3).toString('hex')}.sock`)
      const pool = new WarmPool({ ...findPython(packageRoot, env), socket, log }, env)
      return { engine: new PooledEngine(engine, pool, env), close: () => pool.close() }
    },
    chosenEngine: place.chosenEngine,
    resources: () => machineResources(env),
    python: () => findPython(packageRoot, env),
    startSupervisor: (folder, attempt, log) => startDetached(['_supervise', folder, String(attempt)], log, env),
    startDriver: (command, folder, log) => startDetached([command, folder], log, env),
    now: () => new Date(),
    random: (digits) =>
      randomBytes(Math.ceil(digits / 2))
        .toString('hex')
        .slice(0, digits),
    socketFolder,
    actor: `${userName()}@${hostname()}`,
    upstreamCheckout: place.upstreamCheckout,
  }
}

/** A cluster with much patience may be asked more often than each five seconds, a busy one less. */
function slurmTiming(pollSeconds: string | undefined): Partial<SlurmTiming> {
  const seconds = Number(pollSeconds)
  return pollSeconds && seconds > 0
    ? { pollSeconds: seconds, graceSeconds: Math.min(15, 2 + 3 * seconds), returnSeconds: Math.min(10, Math.ceil(6 * seconds)) }
    : {}
}

/** The session's own folder where there is one: another user's session, or none at all, leaves a path that cannot be written. */
function socketFolderOf(session: string | undefined): string {
  try {
    if (session) {
      accessSync(session, constants.W_OK)
      return join(session, 'stagewright')
    }
  } catch {
    // As if there were none.
  }
  return join(tmpdir(), `stagewright-${process.getuid?.() ?? 'user'}`)
}

/** A user of a container may have a number and no name. */
function userName(): string {
  try {
    return userInfo().username
  } catch {
    return `user ${process.getuid?.()}`
  }
}

/** Supervisors and drivers are this very program in a session of its own; nothing it needs passes through this process. */
async function startDetached(
  words: readonly string[],
  log: string,
  env: Readonly<Record<string, string | undefined>>,
): Promise<StartedProcess> {
  const output = openSync(log, 'a', 0o600)
  try {
    const child = execa(process.execPath, [join(packageRoot, 'bin', 'stagewright.mjs'), ...words], {
      detached: true,
      cleanup: false,
      buffer: false,
      reject: false,
      // Any open descriptor will do; the types know those of the standard streams only.
      stdio: ['ignore', output as 1, output as 1],
      env,
    })
    child.unref()
    return { hasEnded: () => child.pid === undefined || child.exitCode !== null || child.signalCode !== null }
  } finally {
    closeSync(output)
  }
}
