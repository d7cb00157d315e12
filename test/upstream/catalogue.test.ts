import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { catalogueEntries, catalogueFolder, catalogueStage } from '../../src/runs/catalogue.ts'
import { exportStage } from '../../src/upstream/export.ts'
import { generatedScript, type LaunchRecord } from '../../src/upstream/generated-script.ts'
import { importScript } from '../../src/upstream/import.ts'

interface Recorded {
  readonly trainer: string
  readonly launch: LaunchRecord
  readonly files: Readonly<Record<string, string>>
}

const recorded = JSON.parse(readFileSync(new URL('../fixtures/upstream/launches.json', import.meta.url), 'utf8')) as Record<
  string,
  Recorded
>

function imported(name: string) {
  const { trainer, launch, files } = recorded[name] as Recorded
  const [side] = importScript(generatedScript(launch), { file: `${name}.sh`, trainer, readFile: (path) => files[path] })
  if (!side) throw new Error(`${name} starts no trainer`)
  return side
}

test('every stage of the catalogue has a recorded launch', () => {
  expect(
    catalogueEntries(catalogueFolder())
      .map(({ name }) => name)
      .toSorted(),
  ).toEqual(Object.keys(recorded).toSorted())
})

test('each catalogue stage equals the import of its generated script', () => {
  const different = Object.keys(recorded).filter((name) => {
    const { stage } = catalogueStage(name)
    return JSON.stringify(sorted({ ...imported(name).stage, name: stage.name })) !== JSON.stringify(sorted(stage))
  })
  expect(different).toEqual([])
})

test('argparse sees the same arguments from an exported command as from the original', () => {
  const different = Object.keys(recorded).filter((name) => {
    const before = imported(name)
    const { script } = exportStage(before.stage, before.version)
    const [after] = importScript(script, { file: 'exported.sh', trainer: before.version })
    return (
      JSON.stringify(sorted(Object.fromEntries(before.arguments))) !== JSON.stringify(sorted(Object.fromEntries(after?.arguments ?? [])))
    )
  })
  expect(different).toEqual([])
})

test('a stage further down a chain shows only what changed', () => {
  const text = readFileSync(new URL('../../configs/upstream/v1.0/t2v-2.yaml', import.meta.url), 'utf8')
  expect(text).toContain('extends: t2v-1.yaml#t2v-1')
  expect(text).not.toContain('learningRate')
})

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted)
  if (value === null || typeof value !== 'object') return value
  return Object.fromEntries(
    Object.entries(value)
      .toSorted(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, inner]) => [name, sorted(inner)]),
  )
}
