import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { packProgram, scratchFolder } from '../../scripts/bench/packed-program.ts'

const root = join(import.meta.dirname, '..', '..')

test('what a killed run left goes when the next one starts, what a living one uses stays', () => {
  const checkout = mkdtempSync(join(tmpdir(), 'bench-'))
  const dead = spawnSync(process.execPath, ['-e', 'console.log(process.pid)'], { encoding: 'utf8' }).stdout.trim()
  for (const name of [`run-${dead}-abc`, `run-${process.pid}-abc`, 'kept']) mkdirSync(join(checkout, '.bench', name), { recursive: true })
  const scratch = scratchFolder(checkout)
  expect(existsSync(scratch)).toBe(true)
  expect(readdirSync(join(checkout, '.bench')).filter((name) => !scratch.endsWith(name))).toEqual(['kept', `run-${process.pid}-abc`])
  rmSync(checkout, { recursive: true })
})

test('the packed program runs, knows its recipes and leaves the checkout as it was', { timeout: 60_000 }, async () => {
  const before = existsSync(join(root, 'dist'))
  const scratch = scratchFolder(root)
  const program = await packProgram(root, scratch)
  const shown = spawnSync(process.execPath, [program, 'stages', 'show', 'v1.3/t2v-3'], { encoding: 'utf8' })
  expect(shown.stderr).toBe('')
  expect(shown.status).toBe(0)
  expect(existsSync(join(root, 'dist'))).toBe(before)
  rmSync(scratch, { recursive: true })
})
