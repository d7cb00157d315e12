import { createHash } from 'node:crypto'
import { closeSync, existsSync, fstatSync, openSync, readdirSync, readFileSync, readSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import { makeFolder } from './files.ts'

/*
 * Stretches of a trainer's journal read once and kept as columns, under `derived/metrics/`. A segment stands for the bytes from
 * `start` to `end` of the journal, never changes and has one possible content, so that any number of processes may write the same one at
 * once. Whatever is damaged, of another format or not of this journal is left aside: the journal is read instead.
 */

/** Counted up whenever the content of a segment changes; others are ignored. */
const segmentVersion = 1
const magic = Buffer.from('swmetric')
/** A segment is recognised by this many samples of its stretch of the journal. */
const samples = 32
const sampleBytes = 256
const longestHeader = 64 * 1024 * 1024

const headerSchema = z.strictObject({
  version: z.literal(segmentVersion),
  start: z.int().nonnegative(),
  end: z.int().positive(),
  mark: z.string(),
  rows: z.int().nonnegative(),
  columns: z.array(z.string()),
  /** Lines other than `step`, with the number of rows before each, counted in this segment. */
  events: z.array(z.tuple([z.int().nonnegative(), z.string()])),
  seq: z.int(),
  ts: z.number(),
})

/** What stands between two places of a journal. */
export interface Segment {
  readonly start: number
  readonly end: number
  readonly rows: number
  readonly columns: ReadonlyMap<string, Float64Array>
  readonly events: readonly (readonly [number, string])[]
  /** Number and time of the last line. */
  readonly seq: number
  readonly ts: number
}

const folderOf = (derived: string) => join(derived, 'metrics')
const nameOf = (start: number, end: number) => `${start}-${end}.seg`

/** Keeps a segment. One that cannot be written is no loss; it is derived again. */
export function writeSegment(derived: string, journal: string, { columns, ...rest }: Segment): void {
  const header = JSON.stringify({
    ...rest,
    version: segmentVersion,
    mark: markOf(journal, rest.start, rest.end),
    columns: [...columns.keys()],
  })
  const head = Buffer.alloc(16)
  magic.copy(head)
  const text = Buffer.from(header.padEnd(Math.ceil(Buffer.byteLength(header) / 8) * 8 + (header.length - Buffer.byteLength(header))))
  head.writeBigUInt64LE(BigInt(text.length), 8)
  const values = [...columns.values()].map(({ buffer, byteOffset }) => Buffer.from(buffer, byteOffset, rest.rows * 8))
  const folder = folderOf(derived)
  const path = join(folder, nameOf(rest.start, rest.end))
  const temporary = `${path}.${process.pid}.tmp`
  try {
    makeFolder(folder)
    writeFileSync(temporary, Buffer.concat([head, text, ...values]), { mode: 0o600 })
    renameSync(temporary, path)
  } catch {
    rmSync(temporary, { force: true })
  }
}

/** The segment that begins at a place of the journal, the longest one kept; undefined where none fits. */
export function readSegment(derived: string, journal: string, start: number): Segment | undefined {
  for (const end of endsFrom(derived, start)) {
    const segment = parsed(join(folderOf(derived), nameOf(start, end)), journal, start, end)
    if (segment) return segment
  }
  return undefined
}

function endsFrom(derived: string, start: number): number[] {
  const folder = folderOf(derived)
  if (!existsSync(folder)) return []
  const ends = readdirSync(folder).map((name) => /^(\d+)-(\d+)\.seg$/.exec(name))
  return ends.flatMap((match) => (match && Number(match[1]) === start ? [Number(match[2])] : [])).sort((a, b) => b - a)
}

function parsed(path: string, journal: string, start: number, end: number): Segment | undefined {
  try {
    const bytes = readFileSync(path)
    const length = Number(bytes.readBigUInt64LE(8))
    if (!bytes.subarray(0, 8).equals(magic) || length > longestHeader) return undefined
    const header = headerSchema.parse(JSON.parse(bytes.toString('utf8', 16, 16 + length)))
    const { mark, rows, columns, version: _, ...rest } = header
    if (header.start !== start || header.end !== end || mark !== markOf(journal, start, end)) return undefined
    if (bytes.length !== 16 + length + columns.length * rows * 8 || !columns.includes('step')) return undefined
    // Copied, since numbers must begin at a multiple of eight bytes of their memory.
    const values = new Float64Array(bytes.buffer.slice(bytes.byteOffset + 16 + length, bytes.byteOffset + bytes.length))
    return { ...rest, rows, columns: new Map(columns.map((name, place) => [name, values.subarray(place * rows, (place + 1) * rows)])) }
  } catch {
    return undefined
  }
}

/** A mark of a stretch of a journal by samples of its bytes, its end among them; empty where the journal does not reach it. */
function markOf(journal: string, start: number, end: number): string {
  const file = openSync(journal, 'r')
  try {
    if (fstatSync(file).size < end) return ''
    const hash = createHash('sha256')
    const bytes = Buffer.alloc(Math.min(sampleBytes, end - start))
    for (let sample = 1; sample <= samples; sample += 1) {
      const before = start + Math.round(((end - start - bytes.length) * sample) / samples)
      hash.update(bytes.subarray(0, readSync(file, bytes, 0, bytes.length, before)))
    }
    return hash.digest('base64')
  } finally {
    closeSync(file)
  }
}
