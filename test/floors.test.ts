import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { describe, expect, test } from 'vitest'

const src = resolve(import.meta.dirname, '../src')
const floorOf: Record<string, number> = {
  domain: 0,
  config: 1,
  upstream: 1,
  bridge: 1,
  weights: 1,
  store: 1,
  engines: 1,
  trackers: 1,
  runs: 2,
  cli: 3,
  web: 3,
}
const top = 4

interface Import {
  readonly from: string
  readonly to: string
}

const files = readdirSync(src, { recursive: true, encoding: 'utf8' }).filter((file) => /\.tsx?$/.test(file))
const imports = files.flatMap(importsOf)

function importsOf(file: string): Import[] {
  const text = readFileSync(join(src, file), 'utf8')
  const names = [...text.matchAll(/(?:from|import)\s*\(?\s*'(\.[^']+)'/g)].map((match) => match[1] ?? '')
  return names
    .map((name) => ({ from: file, to: relative(src, resolve(src, dirname(file), name)) }))
    .filter(({ to }) => !to.startsWith('..'))
}

function roomOf(file: string): string {
  return file.includes('/') ? (file.split('/')[0] ?? '') : ''
}

function floor(file: string): number {
  return floorOf[roomOf(file)] ?? top
}

/** What breaks a floor rule: an import upwards, or of a neighbour on the same floor. */
function breaches(all: readonly Import[]): string[] {
  return all
    .filter(({ from, to }) => roomOf(from) !== roomOf(to) && floor(to) >= floor(from) && floor(from) < top)
    .map(({ from, to }) => `${from} imports ${to}`)
}

/** Files that import each other in a circle, as the first circle found from each file. */
function cycles(all: readonly Import[]): string[] {
  const next = groupedBy(all)
  const done = new Set<string>()
  const found: string[] = []
  const walk = (file: string, path: string[]) => {
    if (path.includes(file)) found.push([...path.slice(path.indexOf(file)), file].join(' → '))
    if (done.has(file) || path.includes(file)) return
    for (const edge of next.get(file) ?? []) walk(edge.to, [...path, file])
    done.add(file)
  }
  for (const { from } of all) walk(from, [])
  return found
}

function groupedBy(all: readonly Import[]): Map<string, Import[]> {
  const groups = new Map<string, Import[]>()
  for (const edge of all) groups.set(edge.from, [...(groups.get(edge.from) ?? []), edge])
  return groups
}

describe('the floors', () => {
  test('every folder of src has a floor', () => {
    const rooms = new Set(files.map(roomOf).filter(Boolean))
    expect([...rooms].filter((room) => floorOf[room] === undefined)).toEqual([])
  })

  test('a file imports its own folder and lower floors only', () => {
    expect(breaches(imports)).toEqual([])
  })

  test('the rule finds an import upwards and one of a neighbour', () => {
    const wrong = [
      { from: 'domain/a.ts', to: 'runs/b.ts' },
      { from: 'store/a.ts', to: 'config/b.ts' },
    ]
    expect(breaches(wrong)).toHaveLength(2)
  })

  test('no file imports itself through others', () => {
    expect(cycles(imports)).toEqual([])
  })

  test('domain imports zod and nothing else', () => {
    const outside = files
      .filter((file) => roomOf(file) === 'domain')
      .flatMap((file) =>
        [...readFileSync(join(src, file), 'utf8').matchAll(/from\s+'([^.'][^']*)'/g)].map((match) => `${file}: ${match[1]}`),
      )
      .filter((entry) => !entry.endsWith(': zod'))
    expect(outside).toEqual([])
  })

  test('only main reads arguments and the working directory', () => {
    const reading = files
      .filter((file) => roomOf(file) !== '' && /process\.(argv|cwd)\b/.test(readFileSync(join(src, file), 'utf8')))
      .map((file) => `${file} reads process.argv or process.cwd`)
    expect(reading).toEqual([])
  })

  test('no file is called utils, helpers, common or misc', () => {
    expect(files.filter((file) => /(^|\/)(utils?|helpers?|common|misc)\.tsx?$/.test(file))).toEqual([])
  })
})
