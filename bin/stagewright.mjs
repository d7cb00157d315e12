#!/usr/bin/env node
// Runs the built program where there is one that is newer than its sources, the sources through tsx else.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(fileURLToPath(import.meta.url), '..', '..')
const built = join(root, 'dist', 'main.js')
if (existsSync(built) && !process.env.STAGEWRIGHT_SOURCES) {
  await import(built)
} else {
  const { register } = await import('tsx/esm/api')
  register()
  await import(join(root, 'src', 'main.ts'))
}
