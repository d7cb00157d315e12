import { closeSync, openSync, readSync } from 'node:fs'
import type { CurveSource, Scalar } from './scalar.ts'

const chunkBytes = 1 << 20
const stepNames = ['step', 'global_step', 'iteration', 'iter', 'trainer/global_step']
const timeNames = ['ts', 'time', 'timestamp', 'wall_time', '_timestamp']

/** A log of JSON objects, one a line: every number of a line with a step is a scalar. Other lines are passed over; a torn last one is read later. */
export class LineLog implements CurveSource {
  readonly #path: string
  #offset = 0

  constructor(path: string) {
    this.#path = path
  }

  next(): Scalar[] {
    const found: Scalar[] = []
    const file = openSync(this.#path, 'r')
    try {
      let rest = Buffer.alloc(0)
      for (;;) {
        const chunk = Buffer.allocUnsafe(chunkBytes)
        const read = readSync(file, chunk, 0, chunkBytes, this.#offset + rest.length)
        if (read === 0) return found
        const bytes = Buffer.concat([rest, chunk.subarray(0, read)])
        const end = bytes.lastIndexOf(0x0a) + 1
        for (const line of bytes.toString('utf8', 0, end).split('\n')) found.push(...scalarsOf(line))
        this.#offset += end
        rest = bytes.subarray(end)
      }
    } finally {
      closeSync(file)
    }
  }
}

function scalarsOf(line: string): Scalar[] {
  if (!line.startsWith('{')) return []
  try {
    return scalarsOfRecord(JSON.parse(line) as Record<string, unknown>)
  } catch {
    return []
  }
}

/** The numbers of a record that names its step; nested records by dotted names. */
export function scalarsOfRecord(record: Record<string, unknown>): Scalar[] {
  const step = firstNumber(record, stepNames)
  if (step === undefined || !Number.isInteger(step) || step < 0) return []
  const wallTime = firstNumber(record, timeNames) ?? Number.NaN
  const besides = new Set([...stepNames, ...timeNames])
  return numbersIn(record, '').flatMap(([tag, value]) => (besides.has(tag) ? [] : [{ tag, step, wallTime, value }]))
}

function firstNumber(record: Record<string, unknown>, names: readonly string[]): number | undefined {
  return names.map((name) => record[name]).find((value) => typeof value === 'number')
}

function numbersIn(record: Record<string, unknown>, prefix: string): [string, number][] {
  return Object.entries(record).flatMap(([name, value]): [string, number][] => {
    if (typeof value === 'number') return [[`${prefix}${name}`, value]]
    const isRecord = value !== null && typeof value === 'object' && !Array.isArray(value)
    return isRecord ? numbersIn(value as Record<string, unknown>, `${prefix}${name}.`) : []
  })
}
