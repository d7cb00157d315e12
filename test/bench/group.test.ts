import { join } from 'node:path'
import { expect, test } from 'vitest'
import { allGroups } from '../../scripts/bench/group.ts'

const root = join(import.meta.dirname, '..', '..')

test('every group of both languages says what it measures, each benchmark under one name', { timeout: 60_000 }, async () => {
  const groups = await allGroups(root)
  expect([...groups.keys()]).toEqual(expect.arrayContaining(['cli', 'import', 'models', 'weights']))
  for (const { benchmarks } of groups.values()) {
    expect(benchmarks.length).toBeGreaterThan(0)
    expect(new Set(benchmarks.map(({ name }) => name)).size).toBe(benchmarks.length)
  }
})
