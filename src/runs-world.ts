import { randomBytes } from 'node:crypto'
import { hostname, tmpdir, userInfo } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import { findPython } from './bridge/environment.ts'
import { LocalEngine } from './engines/local.ts'
import type { RunsWorld } from './runs/world.ts'

/** Folder of this package: the checkout, or where it is installed. */
export const packageRoot = join(import.meta.dirname, '..')

/** The world of the use cases on this machine. */
export function runsWorldOf(place: {
  cwd: string
  env: Readonly<Record<string, string | undefined>>
  runsFolder: string
  pythonEnv?: string | undefined
  upstreamCheckout?: string | undefined
}): RunsWorld {
  const { cwd, env, runsFolder } = place
  return {
    cwd,
    runsFolder,
    engine: new LocalEngine(env),
    python: () => findPython(packageRoot, env, place.pythonEnv),
    startSupervisor: (folder) => startSupervisor(folder, env),
    now: () => new Date(),
    random: (digits) =>
      randomBytes(Math.ceil(digits / 2))
        .toString('hex')
        .slice(0, digits),
    socketFolder: env.XDG_RUNTIME_DIR ? join(env.XDG_RUNTIME_DIR, 'stagewright') : join(tmpdir(), `stagewright-${userInfo().uid}`),
    actor: `${userInfo().username}@${hostname()}`,
    upstreamCheckout: place.upstreamCheckout,
  }
}

/** The supervisor is this very program in a session of its own; nothing it needs passes through this process. */
async function startSupervisor(folder: string, env: Readonly<Record<string, string | undefined>>): Promise<void> {
  const child = execa(process.execPath, [join(packageRoot, 'bin', 'stagewright.mjs'), '_supervise', folder], {
    detached: true,
    cleanup: false,
    buffer: false,
    reject: false,
    stdio: 'ignore',
    env,
  })
  child.unref()
}
