import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { bundleTo } from '../build.ts'

const kept = '.bench'

/** A folder inside the checkout, where packages are found from, that version control ignores. What killed runs left there goes. */
export function scratchFolder(root: string): string {
  const folder = join(root, kept)
  mkdirSync(folder, { recursive: true })
  for (const name of readdirSync(folder)) {
    const [, pid] = /^run-(\d+)-/.exec(name) ?? []
    if (pid !== undefined && !isAlive(Number(pid))) rmSync(join(folder, name), { recursive: true, force: true })
  }
  return mkdtempSync(join(folder, `run-${process.pid}-`))
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch (cause) {
    return (cause as NodeJS.ErrnoException).code === 'EPERM'
  }
}

/** The program as a package holds it, `bin` beside the bundle, without touching `dist`. Returns the path of its `stagewright.mjs`. */
export async function packProgram(root: string, scratch: string): Promise<string> {
  const folder = join(scratch, 'package')
  mkdirSync(folder)
  await bundleTo(join(folder, 'dist'))
  for (const part of ['bin', 'package.json']) cpSync(join(root, part), join(folder, part), { recursive: true })
  for (const part of ['configs', 'python', 'scripts', 'docs']) symlinkSync(join(root, part), join(folder, part))
  return join(folder, 'bin', 'stagewright.mjs')
}
