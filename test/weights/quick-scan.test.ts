import { expect, test } from 'vitest'
import { inspectHeader } from '../../src/weights/header.ts'
import { quickScan } from '../../src/weights/quick-scan.ts'
import { rawFile, temporaryFolder, written } from './made-file.ts'

const folder = temporaryFolder()
const tensor = (begin: number, end: number) => ({ dtype: 'U8', shape: [end - begin], data_offsets: [begin, end] })
const metadata = { format: 'pt', __metadata__: 'nested', note: '"__metadata__":{"a":1},', 'a "quoted" \\ key': '}' }
const named = { 'a.__metadata__': tensor(0, 2), b: tensor(2, 3) }

/** A file with a header text of its own, padded to a multiple of eight, and three bytes of data. */
function fileOf(text: string): Buffer {
  return rawFile(text.padEnd(Math.ceil(text.length / 8) * 8), new Uint8Array(3))
}

function scanned(text: string) {
  const file = fileOf(text)
  return quickScan('x', new Uint8Array(file.subarray(0, file.length - 3)), file.length)
}

test.each([
  ['first', { __metadata__: metadata, ...named }, true],
  ['between', { 'a.__metadata__': tensor(0, 2), __metadata__: metadata, b: tensor(2, 3) }, false],
  ['last', { ...named, __metadata__: metadata }, false],
])('metadata that stands %s is told apart from tensors', (_, entries, isQuick) => {
  expect(scanned(JSON.stringify(entries)) !== undefined).toBe(isQuick)
  const { header, findings } = inspectHeader(written(folder, 'metadata.safetensors', fileOf(JSON.stringify(entries))))
  expect(findings).toEqual([])
  expect([...(header?.tensors.keys() ?? [])]).toEqual(Object.keys(named))
  expect(Object.fromEntries(header?.metadata ?? [])).toEqual(metadata)
})

const b = JSON.stringify(tensor(0, 3))

test.each([
  ['a comma after the last entry', `{"b":${b},}`],
  ['a comma after metadata alone', '{"__metadata__":{},}'],
  ['no comma after the metadata', `{"__metadata__":{}"b":${b}}`],
  ['no comma between entries', `{"a":${JSON.stringify(tensor(0, 1))}"b":${JSON.stringify(tensor(1, 3))}}`],
  ['an end before the end', `{"a":${JSON.stringify(tensor(0, 1))}}"b":${JSON.stringify(tensor(1, 3))}}`],
  ['a name twice', `{"b":${b},"b":${b}}`],
  ['metadata twice', `{"__metadata__":{},"__metadata__":{},"b":${b}}`],
  ['a metadata key twice', `{"__metadata__":{"k":"1","k":"2"},"b":${b}}`],
  ['metadata that is no text', `{"__metadata__":{"k":1},"b":${b}}`],
  ['a space before the object', ` {"b":${b}}`],
  ['a space inside', `{"b": ${b}}`],
  ['text after the end', `{"b":${b}} x`],
  ['a list as a name', `{"b":[${b}]}`],
  ['a text as shape', '{"b":{"dtype":"U8","shape":"3","data_offsets":[0,3]}}'],
  ['a list in the shape', '{"b":{"dtype":"U8","shape":[[3]],"data_offsets":[0,3]}}'],
  ['lengths below zero', '{"b":{"dtype":"U8","shape":[-1,-3],"data_offsets":[0,3]}}'],
  ['true as an offset', '{"b":{"dtype":"U8","shape":[2],"data_offsets":[true,3]}}'],
  ['null as an offset', '{"b":{"dtype":"U8","shape":[3],"data_offsets":[null,3]}}'],
  ['a third offset', '{"b":{"dtype":"U8","shape":[3],"data_offsets":[0,3,3]}}'],
  ['a field too many', '{"b":{"dtype":"U8","shape":[3],"data_offsets":[0,3],"x":1}}'],
  ['an entry without anything', '{"b":null}'],
])('%s is left to the slow scan', (_, text) => {
  expect(scanned(text)).toBeUndefined()
})

test('a header as the reference writer makes it goes the quick way', () => {
  expect([...(scanned(`{"b":${b}}`)?.tensors.keys() ?? [])]).toEqual(['b'])
})
