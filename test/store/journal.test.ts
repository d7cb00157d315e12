import { appendFileSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { maxLineBytes } from '../../src/domain/protocol.ts'
import { SupervisorJournal, supervisorJournal, trainerJournal } from '../../src/store/journal.ts'

let folder: string
let path: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'journal-'))
  path = join(folder, 'trainer.jsonl')
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

const heartbeat = (seq: number, more = {}) => ({ seq, ts: seq, attempt: 1, event: 'heartbeat', step: seq, ...more })
const lineOf = (value: unknown) => `${JSON.stringify(value)}\n`
const seqs = (events: readonly { seq: number }[]) => events.map(({ seq }) => seq)

describe('reading a journal while it grows', () => {
  test('no file yet is an empty journal', () => {
    expect(trainerJournal(path).next()).toEqual([])
  })

  test('however the bytes arrive, every whole line is given once and in order', () => {
    const lines = fc.array(fc.record({ note: fc.string({ unit: 'grapheme' }) }), { minLength: 1, maxLength: 8 })
    fc.assert(
      fc.property(lines, fc.array(fc.nat(200), { maxLength: 20 }), (notes, pieces) => {
        const bytes = Buffer.from(notes.map((note, seq) => lineOf(heartbeat(seq, note))).join(''))
        writeFileSync(path, '')
        const reader = trainerJournal(path)
        const got: { seq: number }[] = []
        let at = 0
        for (const piece of [...pieces, bytes.length]) {
          appendFileSync(path, bytes.subarray(at, at + piece))
          at += piece
          got.push(...reader.next())
          const whole = bytes.subarray(0, at).toString('latin1').split('\n').length - 1
          expect(got).toHaveLength(whole)
        }
        expect(seqs(got)).toEqual(notes.map((_, seq) => seq))
        expect(got).toEqual(notes.map((note, seq) => heartbeat(seq, note)))
      }),
      { numRuns: 60 },
    )
  })

  test('a torn line that a continued run cuts off and writes over loses nothing, whenever the reader looks', () => {
    fc.assert(
      fc.property(fc.nat(60), fc.nat(200), fc.boolean(), fc.boolean(), (torn, padding, looksBetween, looksLater) => {
        writeFileSync(path, lineOf(heartbeat(0)))
        const reader = trainerJournal(path)
        const whole = readFileSync(path).length
        appendFileSync(path, lineOf(heartbeat(1)).slice(0, torn).replace('\n', ''))
        const got = reader.next()
        truncateSync(path, whole)
        if (looksBetween) got.push(...reader.next())
        appendFileSync(path, lineOf(heartbeat(1, { padding: 'x'.repeat(padding) })))
        if (looksLater) got.push(...reader.next())
        appendFileSync(path, lineOf(heartbeat(2)))
        got.push(...reader.next())
        expect(seqs(got)).toEqual([0, 1, 2])
      }),
      { numRuns: 60 },
    )
  })

  test('unknown events, broken lines and lines over the limit are passed over, the next one is not', () => {
    const long = `{"seq":3,"text":"${'x'.repeat(2 * maxLineBytes)}"}\n`
    const lines = [
      lineOf(heartbeat(0)),
      lineOf({ seq: 1, ts: 1, attempt: 1, event: 'of tomorrow' }),
      '\0\0\0\n',
      long,
      lineOf(heartbeat(4)),
    ]
    writeFileSync(path, lines.join(''))
    expect(seqs(trainerJournal(path).next())).toEqual([0, 4])
  })

  test('a line of exactly the limit is read', () => {
    const bare = lineOf(heartbeat(1, { text: '' })).length
    writeFileSync(path, lineOf(heartbeat(0)) + lineOf(heartbeat(1, { text: 'x'.repeat(maxLineBytes - bare) })) + lineOf(heartbeat(2)))
    expect(seqs(trainerJournal(path).next())).toEqual([0, 1, 2])
  })

  test('a loss that is no number arrives as one', () => {
    const step = { seq: 0, ts: 0, attempt: 1, event: 'step', step: 1, loss: { $f: '-inf' }, learningRate: 1, secondsPerStep: 1 }
    writeFileSync(path, lineOf(step))
    expect(trainerJournal(path).next()).toMatchObject([{ loss: Number.NEGATIVE_INFINITY }])
  })

  test('another format is refused with what to do', () => {
    writeFileSync(path, lineOf({ seq: 0, ts: 0, attempt: 1, event: 'opened', formatVersion: 2 }))
    expect(() => trainerJournal(path).next()).toThrow(
      expect.objectContaining({ code: 'FORMAT_VERSION', hint: 'use the Stagewright version that wrote the run' }),
    )
  })
})

describe('writing the supervisor’s journal', () => {
  const ended = { event: 'signalled', signal: 'SIGTERM', by: 'me' } as const

  test('numbers go on after a torn line, which is cut off', () => {
    const first = new SupervisorJournal(path)
    first.append(1, ended)
    first.close()
    appendFileSync(path, '{"seq":2,"ts":1,"att')
    const second = new SupervisorJournal(path)
    second.append(1, ended)
    second.close()
    expect(supervisorJournal(path).next()).toMatchObject([
      { seq: 0, event: 'opened', formatVersion: 1 },
      { seq: 1, event: 'signalled' },
      { seq: 2, event: 'signalled' },
    ])
  })

  test('a first line that was torn is written again', () => {
    writeFileSync(path, '{"seq":0')
    new SupervisorJournal(path).close()
    expect(supervisorJournal(path).next()).toMatchObject([{ seq: 0, event: 'opened' }])
  })

  test('lines that a power cut turned to nothing do not stop it', () => {
    writeFileSync(path, `${lineOf({ seq: 0, ts: 0, attempt: 0, event: 'opened', formatVersion: 1 })}\0\0\0\n`)
    const journal = new SupervisorJournal(path)
    journal.append(1, ended)
    journal.close()
    expect(seqs(supervisorJournal(path).next())).toEqual([0, 1])
  })
})
