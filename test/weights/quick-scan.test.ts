import { expect, test } from 'vitest'
import { quickScan } from '../../src/weights/quick-scan.ts'
import { validFile } from './made-file.ts'

const tensor = (begin: number, end: number) => ({ dtype: 'U8', shape: [end - begin], data_offsets: [begin, end] })
const metadata = { format: 'pt', __metadata__: 'nested', note: '"__metadata__":{"a":1},' }
const named = { 'a.__metadata__': tensor(0, 2), b: tensor(2, 3) }

function scanned(entries: object) {
  const text = JSON.stringify(entries)
  const json = Buffer.from(text.padEnd(Math.ceil(text.length / 8) * 8))
  return quickScan(json, 8 + json.length, 8 + json.length + 3)
}

test.each([
  ['first', { __metadata__: metadata, ...named }],
  ['between', { 'a.__metadata__': tensor(0, 2), __metadata__: metadata, b: tensor(2, 3) }],
  ['last', { ...named, __metadata__: metadata }],
])('metadata that stands %s is left out, and nothing else', (_, entries) => {
  const found = scanned(entries)
  expect(JSON.parse(found?.text ?? '')).toEqual(named)
  expect(Object.fromEntries(found?.metadata ?? [])).toEqual(metadata)
})

test('a header of metadata alone, or without any, stays JSON', () => {
  const alone = Buffer.from('{"__metadata__":{"a":"b"}}'.padEnd(32))
  expect(quickScan(alone, 40, 40)?.text).toBe('{}')
  const file = validFile({ a: { dtype: 'U8', shape: [1], bytes: new Uint8Array(1) } })
  const length = Number(file.readBigUInt64LE())
  expect(quickScan(file.subarray(8, 8 + length), 8 + length, file.length)?.text).toBe(
    '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
  )
})
