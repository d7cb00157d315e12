import { execFile } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { lockHolder, takeLock } from '../../src/store/lock.ts'

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'lock-'))
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

const process_ = (pid: number) => ({ pid, startTime: `${pid}00`, host: 'here' })
const dead = () => false
const alive = () => true

test('one process holds a lock until it gives it back', () => {
  const path = join(folder, 'lock')
  const lock = takeLock(path, process_(1), alive)
  expect(takeLock(path, process_(2), alive)).toEqual(process_(1))
  if ('release' in lock) lock.release()
  expect(lockHolder(path)).toBeUndefined()
  expect(takeLock(path, process_(2), alive)).toHaveProperty('release')
  expect(readdirSync(folder)).toEqual(['lock'])
})

test('a lock whose holder is gone is taken over and the late holder cannot give it back', () => {
  const path = join(folder, 'lock')
  const first = takeLock(path, process_(1), alive)
  expect(takeLock(path, process_(2), dead)).toHaveProperty('release')
  if ('release' in first) first.release()
  expect(lockHolder(path)).toEqual(process_(2))
  expect(readdirSync(folder)).toEqual(['lock'])
})

test('a claim whose claimant died is claimed in turn', () => {
  const path = join(folder, 'lock')
  takeLock(path, process_(1), alive)
  writeFileSync(`${path}.after-1-100`, JSON.stringify(process_(2)))
  expect(takeLock(path, process_(3), ({ pid }) => pid === 2)).toEqual(process_(2))
  expect(takeLock(path, process_(3), dead)).toHaveProperty('release')
  expect(lockHolder(path)).toEqual(process_(3))
  expect(readdirSync(folder)).toEqual(['lock'])
})

test.each([
  ['still holds it', false],
  ['has given it back to a third', true],
])('whoever looked at a stale lock before another took it over leaves that one alone, also when it %s', (_, givesBack) => {
  const path = join(folder, 'lock')
  takeLock(path, process_(1), alive)
  const third = { ...process_(4), startTime: process_(1).startTime }
  let looks = 0
  const answer = takeLock(path, process_(3), ({ pid }) => {
    looks += 1
    if (looks > 1) return pid !== 1
    const second = takeLock(path, process_(2), dead)
    if (givesBack && 'release' in second) {
      second.release()
      takeLock(path, third, alive)
    }
    return false
  })
  expect(answer).toEqual(givesBack ? third : process_(2))
  expect(lockHolder(path)).toEqual(answer)
  expect(readdirSync(folder)).toEqual(['lock'])
})

test('a lock file that a power cut emptied is taken over', () => {
  const path = join(folder, 'lock')
  writeFileSync(path, '')
  expect(takeLock(path, process_(3), ({ startTime }) => startTime !== 'unreadable')).toHaveProperty('release')
})

test('of processes that fight for a lock whose holders die, never two hold it', async () => {
  const contend = () =>
    promisify(execFile)(process.execPath, ['--import', 'tsx', join(import.meta.dirname, 'lock-contender.ts'), folder, '60'])
  const all = await Promise.all([contend(), contend(), contend()])
  const results = all.map(({ stdout }) => JSON.parse(stdout) as { held: number; broken: number })
  expect(results.map(({ broken }) => broken)).toEqual([0, 0, 0])
  expect(results.map(({ held }) => held)).toEqual([60, 60, 60])
})
