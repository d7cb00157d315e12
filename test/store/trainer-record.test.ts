import { createHash } from 'node:crypto'
import { appendFileSync, mkdirSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'vitest'
import { trainerEvent } from '../../src/domain/protocol.ts'
import { filesOf } from '../../src/store/runs.ts'
import { plainStep } from '../../src/store/step-line.ts'
import { TrainerRecord } from '../../src/store/trainer-record.ts'
import { folderTest as test } from '../runs/fake-world.ts'
import { journalLines, stepLine } from './made-journal.ts'

async function recordOf(folder: string): Promise<TrainerRecord> {
  const record = new TrainerRecord(filesOf(folder))
  await record.update()
  return record
}

function contentOf({ columns, events, last, offset }: TrainerRecord) {
  const hash = (values: Float64Array | Uint32Array | Uint8Array = new Uint8Array()) => createHash('sha256').update(values).digest('hex')
  const values = Object.fromEntries(columns.names.map((name) => [name, hash(columns.column(name))]))
  return { rows: columns.rows, values, events, last: { ...last }, offset, kept: hash(columns.kept), rewinds: columns.rewinds }
}

/** A journal of about 9 MB with a rolled-back stretch, a measurement now and then and a torn end. */
function writeJournal(folder: string): string {
  mkdirSync(join(folder, 'derived'), { recursive: true })
  const path = join(folder, 'trainer.jsonl')
  writeFileSync(path, journalLines({ steps: 18_000, backAt: 9000, backTo: 8000 }).join(''))
  return path
}

test('what was kept of a journal is what the journal says, also after it has grown', async ({ folder }) => {
  const path = writeJournal(folder)
  const first = await recordOf(folder)
  expect(readdirSync(join(folder, 'derived/metrics')).length).toBeGreaterThan(0)
  expect(contentOf(await recordOf(folder))).toEqual(contentOf(first))
  appendFileSync(path, `${stepLine(18_001)}${stepLine(18_002)}{"seq":`)
  expect(await first.update()).toBe(true)
  const again = await recordOf(folder)
  expect(contentOf(again)).toEqual(contentOf(first))
  expect(again.columns.column('step')?.at(-1)).toBe(18_002)
  rmSync(join(folder, 'derived'), { recursive: true })
  expect(contentOf(await recordOf(folder))).toEqual(contentOf(first))
})

test('kept columns that are damaged, cut or of another journal are left aside', async ({ folder }) => {
  const path = writeJournal(folder)
  const whole = contentOf(await recordOf(folder))
  const kept = () => readdirSync(join(folder, 'derived/metrics')).map((name) => join(folder, 'derived/metrics', name))
  for (const file of kept()) truncateSync(file, 1000)
  expect(contentOf(await recordOf(folder))).toEqual(whole)
  for (const file of kept()) writeFileSync(file, 'not a segment')
  expect(contentOf(await recordOf(folder))).toEqual(whole)
  writeFileSync(path, readFileSync(path, 'utf8').replaceAll('"learningRate":0.0003', '"learningRate":0.0004'))
  const other = await recordOf(folder)
  expect(other.columns.column('learningRate')?.[17]).toBe(0.0004)
})

test('a journal that became shorter is another one', async ({ folder }) => {
  const path = writeJournal(folder)
  const record = await recordOf(folder)
  expect(record.isStale()).toBe(false)
  truncateSync(path, 5000)
  expect(record.isStale()).toBe(true)
  const fresh = await recordOf(folder)
  expect(fresh.columns.rows).toBeGreaterThan(0)
  expect(fresh.columns.rows).toBeLessThan(20)
})

test('a run without a journal has an empty record', async ({ folder }) => {
  const record = await recordOf(folder)
  expect(contentOf(record)).toMatchObject({ events: [], offset: 0, rows: 0 })
})

test('the quick look at a step says what the schema says, or leaves it to the schema', () => {
  const step = JSON.parse(stepLine(3)) as Record<string, unknown>
  expect(plainStep(step)).toBe(step)
  expect(trainerEvent.parse(step)).toEqual(step)
  const wrong = [
    { loss: 'high' },
    { loss: { $f: 'nan' } },
    { loss: null },
    { step: -1 },
    { step: 1.5 },
    { clips: 0.5 },
    { split: [1] },
    { split: { data: null } },
    { lossByBin: { 0: 1 } },
    { lossByBin: ['x'] },
    { event: 'steps' },
    { memoryBytes: 2 ** 60 },
    { ts: Number.POSITIVE_INFINITY },
  ]
  for (const change of wrong) expect(plainStep({ ...step, ...change }), JSON.stringify(change)).toBeUndefined()
})
