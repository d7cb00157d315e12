import { spawn } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { z } from 'zod'
import { findPython } from '../../src/bridge/environment.ts'
import { type Benchmark, benchmark, type Measured, measured } from './figure.ts'

/** What a group may use while it measures. */
export interface Bench {
  readonly root: string
  /** Empty, and gone when all groups are done. */
  readonly scratch: string
  /** How many rounds to take where `wanted` would be right; two in a quick run. */
  readonly rounds: (wanted: number) => number
  /** The program as it is packed, made once: path of its `stagewright.mjs`. */
  readonly program: () => Promise<string>
}

/** Benchmarks that belong together: one file in `groups/`, exported as `group`. */
export interface Group {
  readonly benchmarks: readonly Benchmark[]
  /** Yields one measurement for each benchmark, in any order. */
  readonly measure: (bench: Bench) => AsyncIterable<Measured>
}

const folder = join(import.meta.dirname, 'groups')

/** Every group by name: files of `scripts/bench/groups/` and of `python/bench/groups/`. */
export async function allGroups(root: string): Promise<ReadonlyMap<string, Group>> {
  const own = readdirSync(folder).filter((file) => file.endsWith('.ts'))
  const found = await Promise.all(
    own.map(async (file): Promise<[string, Group]> => {
      const { group } = (await import(join(folder, file))) as { group: Group }
      return [file.replace(/\.ts$/, ''), group]
    }),
  )
  return new Map([...found, ...(await pythonGroups(root))].sort(([a], [b]) => a.localeCompare(b)))
}

const listing = z.record(z.string(), z.array(benchmark))

async function pythonGroups(root: string): Promise<[string, Group][]> {
  const lines: string[] = []
  for await (const line of askPython(root, ['--list'])) lines.push(line)
  return Object.entries(listing.parse(JSON.parse(lines.join('')))).map(([name, benchmarks]) => [
    name,
    { benchmarks, measure: (bench) => measuredByPython(bench, name) },
  ])
}

async function* measuredByPython(bench: Bench, name: string): AsyncIterable<Measured> {
  const quick = bench.rounds(Number.POSITIVE_INFINITY) < Number.POSITIVE_INFINITY
  for await (const line of askPython(bench.root, [name, bench.scratch, ...(quick ? ['--quick'] : [])]))
    yield measured.parse(JSON.parse(line))
}

async function* askPython(root: string, question: readonly string[]): AsyncIterable<string> {
  const { python, pythonPath } = findPython(root, process.env)
  const child = spawn(python, ['-m', 'bench', ...question], { cwd: pythonPath, stdio: ['ignore', 'pipe', 'inherit'] })
  const stop = () => child.kill()
  process.once('exit', stop)
  const ended = new Promise<number | null>((resolve, reject) => child.on('close', resolve).on('error', reject))
  for await (const line of createInterface({ input: child.stdout })) if (line.trim() !== '') yield line
  const code = await ended
  process.off('exit', stop)
  if (code !== 0) throw new Error(`python -m bench ${question.join(' ')} ended with ${code}`)
}
