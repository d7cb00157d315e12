import { cpSync, mkdirSync, mkdtempSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { bundleTo } from '../build.ts'

const kept = '.bench'

/** Makes a folder inside the checkout, where packages are found from, that is ignored by version control. */
export function scratchFolder(root: string): string {
  mkdirSync(join(root, kept), { recursive: true })
  return mkdtempSync(join(root, kept, 'run-'))
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
