import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { FileChanges } from '../../src/store/changes.ts'

const folder = mkdtempSync(join(tmpdir(), 'changes-'))
const [watched, other] = [join(folder, 'a.jsonl'), join(folder, 'b.jsonl')]
const forEver = 60_000

afterAll(() => rmSync(folder, { recursive: true, force: true }))

test('a wait ends when its file appears, grows or is put in place by a rename, also between two waits', async () => {
  const changes = new FileChanges(watched)
  const first = changes.within(forEver)
  writeFileSync(watched, 'one\n')
  await first
  writeFileSync(watched, 'two\n', { flag: 'a' })
  await changes.within(forEver)
  writeFileSync(`${watched}.tmp`, 'three\n')
  renameSync(`${watched}.tmp`, watched)
  await changes.within(forEver)
  changes.close()
})

test('a wait lasts as long as it may where only other files change, nothing can be watched, or it is given up', async () => {
  const changes = new FileChanges(watched)
  const waited = changes.within(50).then(() => 'over')
  writeFileSync(other, 'x')
  expect(await Promise.race([waited, new Promise((resolve) => setTimeout(() => resolve('waits'), 10))])).toBe('waits')
  await waited
  const given = new AbortController()
  const leaving = changes.within(forEver, given.signal)
  given.abort()
  await leaving
  changes.close()
  await new FileChanges(join(folder, 'none', 'c.jsonl')).within(10)
})
