import { createHash, type Hash } from 'node:crypto'
import { closeSync, existsSync, fstatSync, openSync, readdirSync, readFileSync, readSync, statSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import type { Stage } from '../domain/stage/schema.ts'

const cosmetic: readonly (keyof Stage)[] = ['notes', 'output', 'reportTo', 'logEvery']
/** What is read of each end of a file that is no list. */
const sampleBytes = 16_384
/** Clips of a longer annotation are not looked at one by one; its text is. */
const longestLookedThrough = 32 << 20

/** A hash over what a stage trains: its settings, its data and the weights it starts from. Two runs with the same one train the same. */
export function contentHash(stage: Stage, parts: { data: string | null; weightsSha256: string | null; vaeSha256: string | null }): string {
  const settings = Object.fromEntries(Object.entries(stage).filter(([name]) => !cosmetic.includes(name as keyof Stage)))
  const withoutAddresses = {
    ...settings,
    init: { ...stage.init, weights: null },
    vae: { ...stage.vae, weights: null },
    data: { ...stage.data, source: null, cacheFolder: null },
  }
  const hash = createHash('sha256')
  hash.update(JSON.stringify(sorted(withoutAddresses)))
  hash.update(JSON.stringify([parts.weightsSha256, parts.vaeSha256]))
  hash.update(dataFingerprint(parts.data))
  return hash.digest('hex')
}

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted)
  if (value === null || typeof value !== 'object') return value
  return Object.fromEntries(
    Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, inner]) => [key, sorted(inner)]),
  )
}

/** The lists and annotations of a data source, word for word, and of every clip they name its length and both its ends. Where it lies does not matter. */
function dataFingerprint(source: string | null): string {
  if (source === null || !existsSync(source)) return String(source)
  const hash = createHash('sha256')
  const isFolder = statSync(source).isDirectory()
  const list = isFolder ? join(source, 'merge_data.txt') : source
  if (existsSync(list) && list.endsWith('.txt')) addList(hash, list)
  else if (isFolder) addFolder(hash, source, source)
  else addAnnotation(hash, dirname(source), source)
  return hash.digest('hex')
}

/** Upstream's list: a line is `root,annotation`, which lies under the root or beside the list. */
function addList(hash: Hash, list: string): void {
  const text = readFileSync(list, 'utf8')
  hash.update(text)
  for (const line of text.split('\n')) {
    const [root = '', annotation = ''] = line.trim().split(/\s*,\s*/, 2)
    const folder = resolve(dirname(list), root)
    const found = [resolve(folder, annotation), resolve(dirname(list), annotation)].find((path) => annotation !== '' && existsSync(path))
    if (found) addAnnotation(hash, folder, found)
  }
}

function addAnnotation(hash: Hash, root: string, annotation: string): void {
  if (statSync(annotation).size > longestLookedThrough) {
    addWhole(hash, annotation)
    return
  }
  const text = readFileSync(annotation, 'utf8')
  hash.update(text)
  for (const [, quoted = '""'] of text.matchAll(/"path"\s*:\s*("(?:[^"\\]|\\.)*")/g)) {
    const clip = resolve(root, textOf(quoted))
    if (isFile(clip)) addSample(hash, clip)
  }
}

/** What a quoted JSON string says; one that is no JSON is refused where the clips are read, here it stands for itself. */
function textOf(quoted: string): string {
  try {
    return JSON.parse(quoted) as string
  } catch {
    return quoted
  }
}

function isFile(path: string): boolean {
  return existsSync(path) && statSync(path).isFile()
}

function addFolder(hash: Hash, folder: string, source: string): void {
  for (const entry of readdirSync(folder, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const path = join(folder, entry.name)
    // What is derived from the clips lies beside them.
    if (entry.name === '.stagewright') continue
    if (entry.isDirectory()) addFolder(hash, path, source)
    else if (isFile(path)) {
      hash.update(`${relative(source, path)}\0`)
      addSample(hash, path)
    }
  }
}

function addWhole(hash: Hash, path: string): void {
  const file = openSync(path, 'r')
  try {
    const buffer = Buffer.alloc(1 << 20)
    for (let read = readSync(file, buffer); read > 0; read = readSync(file, buffer)) hash.update(buffer.subarray(0, read))
  } finally {
    closeSync(file)
  }
}

function addSample(hash: Hash, path: string): void {
  const file = openSync(path, 'r')
  try {
    const { size } = fstatSync(file)
    hash.update(`${size}\0`)
    const buffer = Buffer.alloc(Math.min(sampleBytes, size))
    for (const at of [0, size - buffer.length]) hash.update(buffer.subarray(0, readSync(file, buffer, 0, buffer.length, at)))
  } finally {
    closeSync(file)
  }
}
