import { appendFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parquetReadObjects } from 'hyparquet'
import { afterAll, expect, test } from 'vitest'
import { openCurves } from '../../src/trackers/curves.ts'
import { roleOf } from '../../src/trackers/roles.ts'
import { csvText, parquetBytes } from '../../src/trackers/tables.ts'

const folder = mkdtempSync(join(tmpdir(), 'curves-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))
const written = (name: string, text: string) => {
  writeFileSync(join(folder, name), text)
  return join(folder, name)
}

test('lines of JSON give every number of a line with a step, nested ones by dotted names; a torn line waits', () => {
  const path = written('log.jsonl', 'starting\n{"step": 1, "ts": 5, "loss": 2, "lr": {"vae": 1e-3}}\n{"epoch": 1}\n{"step": 2, "lo')
  const source = openCurves(path)
  expect(source.next()).toEqual([
    { tag: 'loss', step: 1, wallTime: 5, value: 2 },
    { tag: 'lr.vae', step: 1, wallTime: 5, value: 1e-3 },
  ])
  appendFileSync(path, 'ss": 1}\n')
  expect(source.next()).toMatchObject([{ tag: 'loss', step: 2, value: 1 }])
  expect(source.next()).toEqual([])
})

test('the history of transformers’ trainer is read, and what is added later', () => {
  const state = (...history: object[]) => JSON.stringify({ global_step: 1, log_history: history })
  const path = written('trainer_state.json', state({ step: 10, loss: 2, learning_rate: 1e-4 }, { step: 10, eval_loss: 3 }))
  const source = openCurves(path)
  expect(source.next().map(({ tag, step, value }) => [tag, step, value])).toEqual([
    ['loss', 10, 2],
    ['learning_rate', 10, 1e-4],
    ['eval_loss', 10, 3],
  ])
  written('trainer_state.json', state({ step: 10, loss: 2, learning_rate: 1e-4 }, { step: 10, eval_loss: 3 }, { step: 20, loss: 1 }))
  expect(source.next()).toMatchObject([{ tag: 'loss', step: 20, value: 1 }])
})

test('what is no log is refused by name', () => {
  mkdirSync(join(folder, 'empty'))
  const refused = (path: string) => expect(() => openCurves(path).next())
  refused(join(folder, 'gone')).toThrow(expect.objectContaining({ code: 'CURVES_MISSING' }))
  refused(join(folder, 'empty')).toThrow(expect.objectContaining({ code: 'CURVES_MISSING' }))
  refused(written('model.safetensors', 'x')).toThrow(expect.objectContaining({ code: 'CURVES_FORM' }))
  refused(written('trainer_state_x.json', '{"a": 1}')).toThrow(expect.objectContaining({ code: 'TRAINER_STATE' }))
})

test.each([
  ['train_loss', 'loss'],
  ['train/loss', 'loss'],
  ['Loss', 'loss'],
  ['loss_epoch', 'loss'],
  ['eval_loss', 'heldOut'],
  ['val/loss', 'heldOut'],
  ['lr', 'learningRate'],
  ['lr-AdamW', 'learningRate'],
  ['train/learning_rate', 'learningRate'],
  ['grad_norm', 'gradientNorm'],
  ['step_time', 'secondsPerStep'],
  ['kl_loss', undefined],
  ['lossless', undefined],
  ['accuracy', undefined],
])('a curve called %s is %s', (tag, role) => {
  expect(roleOf(tag)).toBe(role)
})

const columns = [
  { name: 'step', values: Float64Array.of(1, 2) },
  { name: 'a "quoted", name', values: Float64Array.of(Number.NaN, 0.1) },
]

test('a table as CSV keeps numbers exactly and leaves missing ones empty', () => {
  expect(csvText(columns)).toBe('step,"a ""quoted"", name"\r\n1,\r\n2,0.1\r\n')
})

test('a table as Parquet is read back by another reader', async () => {
  const bytes = parquetBytes(columns)
  const file = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength) as ArrayBuffer
  expect(await parquetReadObjects({ file })).toEqual([
    { step: 1, 'a "quoted", name': null },
    { step: 2, 'a "quoted", name': 0.1 },
  ])
})
