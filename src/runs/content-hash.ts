import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import type { Stage } from '../domain/stage/schema.ts'

const cosmetic: readonly (keyof Stage)[] = ['notes', 'output', 'reportTo', 'logEvery']

/** A hash over what a stage trains: its settings, its data and the weights it starts from. Two runs with the same one train the same. */
export function contentHash(stage: Stage, parts: { data: string | null; weightsSha256: string | null; vaeSha256: string | null }): string {
  const settings = Object.fromEntries(Object.entries(stage).filter(([name]) => !cosmetic.includes(name as keyof Stage)))
  const hash = createHash('sha256')
  hash.update(JSON.stringify(sorted({ ...settings, init: { ...stage.init, weights: null }, vae: { ...stage.vae, weights: null } })))
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

/** Names, sizes and times of the files of a data source, and the text of its lists. */
function dataFingerprint(source: string | null): string {
  if (source === null || !existsSync(source)) return String(source)
  const hash = createHash('sha256')
  const visit = (path: string) => {
    const stats = statSync(path)
    if (stats.isDirectory()) {
      for (const name of readdirSync(path).sort()) visit(join(path, name))
      return
    }
    hash.update(`${path.slice(source.length)}\0${stats.size}\0`)
    if (/\.(txt|json|jsonl|csv)$/.test(path)) hash.update(readFileSync(path))
    else hash.update(String(Math.round(stats.mtimeMs)))
  }
  visit(source)
  return hash.digest('hex')
}
