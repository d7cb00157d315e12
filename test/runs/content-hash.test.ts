import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { defaultStage } from '../../src/domain/stage/fields.ts'
import { stageSchema } from '../../src/domain/stage/schema.ts'
import { contentHash } from '../../src/runs/content-hash.ts'

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'hash-'))
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

const stage = defaultStage('small')
const without = { data: null, weightsSha256: null, vaeSha256: null }
const hashWith = (settings: Record<string, unknown>) => contentHash(stageSchema.parse({ ...stage, ...settings }), without)
const hashOf = (data: string) => contentHash(stage, { ...without, data })

/** A source of one clip in upstream's form. */
function source(name: string, caption = 'a red square', clip = 'x'.repeat(100)): string {
  const root = join(folder, name)
  mkdirSync(join(root, 'clips'), { recursive: true })
  writeFileSync(join(root, 'merge_data.txt'), 'clips,annotation.json\n')
  writeFileSync(join(root, 'annotation.json'), JSON.stringify([{ path: 'a.mp4', cap: caption }]))
  writeFileSync(join(root, 'clips', 'a.mp4'), clip)
  return root
}

describe('two stages train the same', () => {
  test.each([{ notes: 'another thought' }, { logEvery: 7 }])('where they differ in %o alone', (settings) => {
    expect(hashWith(settings)).toBe(contentHash(stage, without))
  })

  test('where their data and weights lie elsewhere, written at another time', () => {
    const first = source('first')
    const second = join(folder, 'second')
    cpSync(first, second, { recursive: true })
    utimesSync(join(second, 'clips', 'a.mp4'), 1, 1)
    expect(hashOf(first)).toBe(hashOf(second))
    expect(hashOf(join(first, 'merge_data.txt'))).toBe(hashOf(first))
    const named = stageSchema.parse({ ...stage, data: { ...stage.data, source: first }, init: { ...stage.init, weights: 'some/where' } })
    expect(contentHash(named, without)).toBe(contentHash(stage, without))
  })
})

test('what is no file in a source is passed over: links in a circle, an annotation that names folders or no JSON', () => {
  const plain = join(folder, 'plain')
  mkdirSync(plain)
  writeFileSync(join(plain, 'a.mp4'), 'clip')
  const before = hashOf(plain)
  symlinkSync('.', join(plain, 'again'))
  symlinkSync('nowhere', join(plain, 'broken'))
  expect(hashOf(plain)).toBe(before)
  const listed = source('listed')
  writeFileSync(join(listed, 'annotation.json'), String.raw`[{"path": "."}, {"path": "\x"}, {"path": "a\u0000b"}]`)
  expect(hashOf(listed)).toMatch(/^[0-9a-f]{64}$/)
})

describe('two stages train something else', () => {
  test.each([{ learningRate: 2e-5 }, { seed: 4321 }, { steps: 17 }])('where they differ in %o', (settings) => {
    expect(hashWith(settings)).not.toBe(contentHash(stage, without))
  })

  test('where their weights or autoencoders do', () => {
    const hashes = [without, { ...without, weightsSha256: 'a' }, { ...without, vaeSha256: 'a' }].map((parts) => contentHash(stage, parts))
    expect(new Set(hashes).size).toBe(3)
  })

  test('where a caption, the content of a clip or the list changed', () => {
    const listed = source('listed')
    writeFileSync(join(listed, 'merge_data.txt'), 'clips,annotation.json\n\n')
    const hashes = [source('a'), source('b', 'a blue square'), source('c', 'a red square', `${'x'.repeat(99)}y`), listed].map(hashOf)
    expect(new Set(hashes).size).toBe(4)
  })

  test('where a clip of a plain folder or of a single annotation changed', () => {
    const [before, after] = [source('a'), source('b', 'a red square', 'y'.repeat(100))]
    expect(hashOf(join(before, 'clips'))).not.toBe(hashOf(join(after, 'clips')))
    for (const root of [before, after]) cpSync(join(root, 'annotation.json'), join(root, 'clips', 'annotation.json'))
    expect(hashOf(join(before, 'clips', 'annotation.json'))).not.toBe(hashOf(join(after, 'clips', 'annotation.json')))
  })
})

test('a source that is not there is told apart from none, and a broken list is hashed as it stands', () => {
  expect(hashOf(join(folder, 'nowhere'))).not.toBe(contentHash(stage, without))
  const root = source('broken')
  writeFileSync(join(root, 'merge_data.txt'), 'no comma\n,\nclips,missing.json\n')
  expect(hashOf(root)).toMatch(/^[0-9a-f]{64}$/)
})
