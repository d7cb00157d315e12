import { execFileSync } from 'node:child_process'
import { appendFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, describe, expect, test } from 'vitest'
import { crc32c } from '../../src/trackers/crc32c.ts'
import { openCurves } from '../../src/trackers/curves.ts'
import { EventFile } from '../../src/trackers/event-file.ts'

const folder = mkdtempSync(join(tmpdir(), 'events-'))
const python = join(import.meta.dirname, '../../.venv/bin/python')
afterAll(() => rmSync(folder, { recursive: true, force: true }))

/** TensorBoard's own writer: simple values, a tensor as PyTorch writes them, a histogram nobody wants, a step beyond 32 bits. */
const writer = `
import sys
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, HistogramProto
from tensorboard.util.tensor_util import make_tensor_proto
writer = EventFileWriter(sys.argv[1])
def add(step, time, *values): writer.add_event(Event(wall_time=time, step=step, summary=Summary(value=values)))
add(1, 100.5, Summary.Value(tag="loss", simple_value=0.5), Summary.Value(tag="größe", simple_value=2.0))
add(2, 101.5, Summary.Value(tag="loss", simple_value=float("nan")), Summary.Value(tag="h", histo=HistogramProto(min=0, max=1)))
add(2**40, 102.5, Summary.Value(tag="acc", tensor=make_tensor_proto(0.25, dtype="float32")), Summary.Value(tag="d", tensor=make_tensor_proto(0.1, dtype="float64")))
writer.close()
`
const written = join(folder, 'tb')
execFileSync(python, ['-c', writer, written], { stdio: ['ignore', 'ignore', 'pipe'] })
const name = readdirSync(written)[0] ?? ''
const whole = readFileSync(join(written, name))

function read(file: EventFile): string[] {
  const found: string[] = []
  file.next((tag, step, wallTime, value) => found.push(`${tag} ${step} ${wallTime} ${value}`))
  return found
}

const all = ['loss 1 100.5 0.5', 'größe 1 100.5 2', 'loss 2 101.5 NaN', `acc ${2 ** 40} 102.5 0.25`, `d ${2 ** 40} 102.5 0.1`]

test('checksums are those of RFC 3720', () => {
  const of = (bytes: number[]) => crc32c(Uint8Array.from(bytes), 0, bytes.length)
  expect(of(Array(32).fill(0)).toString(16)).toBe('8a9136aa')
  expect(of(Array(32).fill(0xff)).toString(16)).toBe('62a8ab43')
  expect(of(Array.from({ length: 32 }, (_, index) => index)).toString(16)).toBe('46dd794e')
  expect(of([...Buffer.from('123456789')]).toString(16)).toBe('e3069283')
})

describe('an event file by TensorBoard itself', () => {
  test('gives its scalars, simple ones and tensors, and passes over what is none', () => {
    expect(read(new EventFile(join(written, name)))).toEqual(all)
    expect(openCurves(written).next()).toHaveLength(all.length)
  })

  test('is read as it grows, wherever it was cut', () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.integer({ min: 0, max: whole.length }), { maxLength: 6 }), (places) => {
        const path = join(folder, 'growing.tfevents')
        writeFileSync(path, '')
        const file = new EventFile(path)
        const found: string[] = []
        let done = 0
        for (const place of [...places.sort((a, b) => a - b), whole.length]) {
          appendFileSync(path, whole.subarray(done, place))
          done = place
          found.push(...read(file))
        }
        expect(found).toEqual(all)
      }),
      { numRuns: 50 },
    )
  })

  test('with any byte changed gives nothing that was not written, and says where the damage is', () => {
    const path = join(folder, 'damaged.tfevents')
    fc.assert(
      fc.property(fc.integer({ min: 0, max: whole.length - 1 }), fc.integer({ min: 1, max: 255 }), (place, change) => {
        const bytes = Buffer.from(whole)
        bytes[place] = (bytes[place] ?? 0) ^ change
        writeFileSync(path, bytes)
        const file = new EventFile(path)
        const found: string[] = []
        expect(() => file.next((tag, step, wallTime, value) => found.push(`${tag} ${step} ${wallTime} ${value}`))).toThrow(
          expect.objectContaining({ code: 'EVENT_FILE_DAMAGED', message: expect.stringMatching(/at byte \d+/) }),
        )
        expect(all.slice(0, found.length)).toEqual(found)
        expect(file.offset).toBeLessThanOrEqual(place)
      }),
      { numRuns: 100 },
    )
  })

  test('whose end is missing gives what is whole', () => {
    const path = join(folder, 'cut.tfevents')
    writeFileSync(path, whole)
    truncateSync(path, whole.length - 3)
    expect(read(new EventFile(path))).toEqual(all.slice(0, 3))
  })
})
