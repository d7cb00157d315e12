import { spawnSync } from 'node:child_process'
import { join } from 'node:path'

const root = join(import.meta.dirname, '../..')

export interface Ended {
  readonly code: number | null
  readonly out: string
  readonly err: string
}

/** Runs the program from its sources in a folder, as typed there, and waits for its end. */
export function programIn(folder: string, ...args: string[]): Ended {
  const env = { ...process.env, NO_COLOR: '1', XDG_RUNTIME_DIR: folder, STAGEWRIGHT_SOURCES: '1' }
  const done = spawnSync(process.execPath, [join(root, 'bin/stagewright.mjs'), ...args], { cwd: folder, env, encoding: 'utf8' })
  return { code: done.status, out: done.stdout, err: done.stderr }
}

/** Makes short clips of moving shapes in a folder. */
export function clipsIn(folder: string, count: number): void {
  const env = { ...process.env, PYTHONPATH: join(root, 'python') }
  const command = ['-m', 'osplan.data.synthetic', folder, '--clips', String(count)]
  const made = spawnSync(join(root, '.venv/bin/python'), command, { env, encoding: 'utf8' })
  if (made.status !== 0) throw new Error(made.stderr)
}
