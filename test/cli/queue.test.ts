import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, expect, vi } from 'vitest'
import { folderTest } from '../runs/fake-world.ts'
import { programIn } from './program.ts'

vi.setConfig({ testTimeout: 60_000 })
afterEach(() => vi.unstubAllEnvs())

folderTest('a stage added to the queue says its number to a script, by which it is found', ({ folder }) => {
  vi.stubEnv('STAGEWRIGHT_PYTHON_ENV', join(import.meta.dirname, '../fake-trainer/python'))
  const stage = { name: 'one', steps: 2, memory: { device: 'cpu' } }
  writeFileSync(join(folder, 'r.yaml'), JSON.stringify({ formatVersion: 1, name: 'r', stages: [stage] }))
  const added = programIn(folder, 'queue', 'add', 'r.yaml', '--json')
  expect(added).toMatchObject({ code: 0, err: '' })
  expect(JSON.parse(added.out)).toEqual({ formatVersion: 1, added: [{ id: 1, stage: 'one' }] })
  expect(JSON.parse(programIn(folder, 'queue', 'list', '--json').out)).toMatchObject({ formatVersion: 1, entries: [{ id: 1 }] })
})
