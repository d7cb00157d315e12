import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import safetensors from 'safetensors'
import { describe, expect, test, vi } from 'vitest'
import { Findings } from '../../src/weights/finding.ts'
import { inspectHeader, readHeader } from '../../src/weights/header.ts'
import { scanHeader } from '../../src/weights/header-scan.ts'
import { quickScan } from '../../src/weights/quick-scan.ts'
import { float32, rawFile, temporaryFolder, validFile, written } from './made-file.ts'

vi.mock('safetensors', async (original) => {
  const real = (await original<{ default: typeof safetensors }>()).default
  return { default: { ...real, SafeTensor: vi.fn(class extends real.SafeTensor {}) } }
})

const folder = temporaryFolder()
const four = new Uint8Array(4)
const entry = (dtype = '"F32"', shape = '[1]', offsets = '[0,4]') => `{"dtype":${dtype},"shape":${shape},"data_offsets":${offsets}}`

function rulesOf(bytes: Uint8Array): string[] {
  return inspectHeader(written(folder, 'case.safetensors', bytes)).findings.map(({ severity, rule }) => `${severity} ${rule}`)
}

/** A file with one header text, padded so that only what the case is about is wrong. */
function padded(text: string, data: Uint8Array = four): Buffer {
  return rawFile(text + ' '.repeat((8 - (Buffer.byteLength(text) % 8)) % 8), data)
}

test('a valid file is read with offsets from the start of the file', () => {
  const path = written(folder, 'valid.safetensors', validFile({ b: float32(1, 2), 'a.x': float32(3) }, { format: 'pt' }))
  const { tensors, metadata, dataBytes } = readHeader(path)
  expect([...tensors.keys()]).toEqual(['b', 'a.x'])
  expect(Object.fromEntries(metadata)).toEqual({ format: 'pt' })
  expect(dataBytes).toBe(12)
  const { begin, end } = tensors.get('a.x') ?? { begin: 0, end: 0 }
  expect(readFileSync(path).subarray(begin, end).readFloatLE()).toBe(3)
})

/** Replaces what the npm package says of a file; gives back how to end that. */
function packageSaying(entries: Readonly<Record<string, object>>): () => void {
  const mocked = vi.mocked(safetensors.SafeTensor)
  const real = mocked.getMockImplementation()
  mocked.mockImplementation(
    class {
      metadata = new Map(Object.entries(entries))
    } as never,
  )
  return () => mocked.mockImplementation(real as never)
}

test('offsets come from the npm package, so a reader beside it would be noticed', () => {
  const path = written(folder, 'valid.safetensors', validFile({ a: float32(1) }, { format: 'pt' }))
  const real = readHeader(path).tensors.get('a')
  const restore = packageSaying({ a: { dtype: 'F32', shape: [1], data_offsets: [1000, 1004] } })
  try {
    expect(readHeader(path).tensors.get('a')).toMatchObject({ begin: 1000, end: 1004 })
  } finally {
    restore()
  }
  expect(real?.begin).not.toBe(1000)
  expect(readHeader(path).tensors.get('a')).toEqual(real)
})

test('on the quick way too: what the package said is what is given on', () => {
  const path = written(folder, 'valid.safetensors', validFile({ a: float32(1) }, { format: 'pt' }))
  const { begin, end } = readHeader(path).tensors.get('a') ?? { begin: 0, end: 0 }
  const shape = [1]
  const restore = packageSaying({ a: { dtype: 'F32', shape, data_offsets: [begin, end] } })
  try {
    expect(readHeader(path).tensors.get('a')?.shape).toBe(shape)
  } finally {
    restore()
  }
})

test('tensors keep the order of the header even where names look like numbers, and __proto__ stays a name', () => {
  const text = `{"b":${entry()},"10":${entry('"F32"', '[0]', '[4,4]')},"__proto__":${entry('"U8"', '[0]', '[4,4]')}}`
  const { header } = inspectHeader(written(folder, 'order.safetensors', padded(text)))
  expect([...(header?.tensors.keys() ?? [])]).toEqual(['b', '10', '__proto__'])
})

describe('each rule of the format is found', () => {
  test.each<[string, Uint8Array, string[]]>([
    ['an empty file', new Uint8Array(), ['error file-short']],
    ['seven bytes', new Uint8Array(7), ['error file-short']],
    ['a header of length 0', rawFile(''), ['error header-length']],
    ['a header longer than the file', rawFile('{}').subarray(0, 9), ['error header-truncated']],
    ['a header over 100 MB', Buffer.from([0x01, 0xe1, 0xf5, 0x05, 0, 0, 0, 0, 0x7b]), ['error header-too-large']],
    ['a header of 2^63 bytes', Buffer.from([0, 0, 0, 0, 0, 0, 0, 0x80]), ['error header-too-large']],
    ['bytes that are not UTF-8', rawFile(Buffer.from([0x7b, 0xff, 0x7d, 0x20, 0x20, 0x20, 0x20, 0x20])), ['error header-encoding']],
    ['a space before the object', padded(` {"a":${entry()}}`), ['error header-start']],
    ['a byte order mark', padded(`\ufeff{"a":${entry()}}`), ['error header-start', 'error header-json']],
    ['a list', padded('[]', new Uint8Array()), ['error header-start', 'error header-json']],
    ['text after the object', padded(`{"a":${entry()}}x`), ['error header-trailing']],
    ['a NUL after the object', padded(`{"a":${entry()}}\0`), ['error header-trailing']],
    ['a vertical tab after the object', padded(`{"a":${entry()}}\v`), ['error header-trailing']],
    ['a no-break space after the object', padded(`{"a":${entry()}}\u00a0`), ['error header-trailing']],
    ['a cut object', padded(`{"a":${entry()}`), ['error header-json']],
    ['a lone surrogate', padded(`{"\\ud800":${entry()}}`), ['error header-json']],
    ['a hundred thousand brackets', padded(`{"a":${'['.repeat(100_000)}`), ['error header-json']],
    ['a shape of more lengths than are kept', padded(`{"a":${entry('"F32"', `[${'1,'.repeat(5000)}1]`)}}`), ['error header-json']],
    [
      'more values than are kept',
      padded(
        `{"a":[${`[${'0,'.repeat(998)}0],`.repeat(999)}0],"b":[${`[${'0,'.repeat(998)}0],`.repeat(999)}0],"c":[${`[${'0,'.repeat(998)}0],`.repeat(999)}0]}`,
      ),
      ['error header-json'],
    ],
    ['one name twice', padded(`{"a":${entry()},"a":${entry('"I32"')}}`), ['error name-duplicate', 'error data-overlap']],
    ['one name twice, once escaped', padded(`{"a":${entry()},"\\u0061":${entry('"U8"', '[0]', '[4,4]')}}`), ['error name-duplicate']],
    ['one field twice', padded(`{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}`), ['error name-duplicate']],
    ['metadata twice', padded(`{"__metadata__":{},"__metadata__":{},"a":${entry()}}`), ['error name-duplicate']],
    ['a number as metadata', padded(`{"__metadata__":{"k":1},"a":${entry()}}`), ['error metadata-type']],
    ['null as metadata', padded(`{"__metadata__":null,"a":${entry()}}`), ['warn metadata-type']],
    ['a dtype nobody knows', padded(`{"a":${entry('"F33"')}}`), ['error dtype-unknown']],
    ['half a byte', padded(`{"a":${entry('"F4"', '[7]', '[0,4]')}}`), ['error dtype-packing']],
    ['a negative length', padded(`{"a":${entry('"F32"', '[-1]')}}`), ['error shape-invalid']],
    ['a length with a fraction', padded(`{"a":${entry('"F32"', '[1.0]')}}`), ['error shape-invalid']],
    ['a length with an exponent', padded(`{"a":${entry('"F32"', '[1e0]')}}`), ['error shape-invalid']],
    ['more values than 64 bits, then a zero', padded(`{"a":${entry('"F32"', '[4294967296,4294967296,0]')}}`), ['error shape-overflow']],
    ['three offsets', padded(`{"a":${entry('"F32"', '[1]', '[0,4,4]')}}`), ['error offsets-invalid']],
    ['offsets that run back', padded(`{"a":${entry('"F32"', '[1]', '[4,0]')}}`), ['error offsets-invalid']],
    ['a size that is not the shape', padded(`{"a":${entry('"F32"', '[2]')}}`), ['error size-mismatch']],
    ['a missing field', padded('{"a":{"dtype":"F32","shape":[1]}}'), ['error tensor-field']],
    ['an unknown field', padded('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}}'), ['warn tensor-field']],
    ['an entry that is a list', padded('{"a":[]}'), ['error tensor-entry']],
    ['a gap', padded(`{"a":${entry('"U8"', '[1]', '[0,1]')},"b":${entry('"U8"', '[1]', '[3,4]')}}`), ['error data-gap']],
    ['an overlap', padded(`{"a":${entry('"U8"', '[3]', '[0,3]')},"b":${entry('"U8"', '[2]', '[2,4]')}}`), ['error data-overlap']],
    ['an empty tensor in the middle of another', padded(`{"a":${entry()},"b":${entry('"U8"', '[0]', '[2,2]')}}`), ['error data-overlap']],
    ['bytes after the last tensor', padded(`{"a":${entry()}}`, new Uint8Array(5)), ['error data-trailing']],
    ['data that is cut', padded(`{"a":${entry()}}`, new Uint8Array(3)), ['error data-outside']],
    ['a header of odd length', rawFile(`{"ab":${entry()}}`, four), ['warn data-misaligned']],
    [
      'floats at an odd byte',
      padded(`{"a":${entry('"U8"', '[1]', '[0,1]')},"b":${entry('"F32"', '[1]', '[1,5]')}}`, new Uint8Array(5)),
      ['warn data-misaligned'],
    ],
    ['a name that climbs', padded(`{"../../etc/x":${entry()}}`), ['warn name-hostile']],
    ['an absolute name', padded(`{"/etc/x":${entry()}}`), ['warn name-hostile']],
    ['an empty name', padded(`{"":${entry()}}`), ['warn name-hostile']],
    ['a prototype', padded(`{"__proto__":${entry()}}`), ['warn name-hostile']],
    ['a NUL in a name', padded(`{"a\\u0000b":${entry()}}`), ['warn name-hostile']],
    ['a very long name', padded(`{"${'a'.repeat(2000)}":${entry()}}`), ['warn name-hostile']],
  ])('%s', (_, bytes, rules) => {
    expect(rulesOf(bytes)).toEqual(rules)
  })

  test('packed dtypes count whole bytes', () => {
    expect(rulesOf(padded(`{"a":${entry('"F4"', '[8]', '[0,4]')}}`))).toEqual([])
    expect(rulesOf(padded(`{"a":${entry('"F6_E2M3"', '[4]', '[0,3]')}}`, new Uint8Array(3)))).toEqual([])
  })

  test('the offset of a duplicate points at its bytes even after letters of several bytes', () => {
    const bytes = padded(`{"é":${entry()},"é":${entry()}}`)
    const { findings } = inspectHeader(written(folder, 'case.safetensors', bytes))
    const place = findings.find(({ rule }) => rule === 'name-duplicate')?.offset ?? 0
    expect(bytes.subarray(place, place + 4).toString()).toBe('"é"')
  })
})

test('a refused file names byte, reason and rule', () => {
  const path = written(folder, 'twice.safetensors', padded(`{"a":${entry()},"a":${entry()}}`))
  expect(() => readHeader(path)).toThrow(/twice\.safetensors: byte 62: "a" stands twice in the header \(name-duplicate\)/)
  expect(() => readHeader(`${folder}/none`)).toThrow('cannot be opened (ENOENT)')
})

describe('for any file', () => {
  const tensors = fc.dictionary(
    fc.stringMatching(/^[a-z]{1,8}(\.[a-z0-9é]{1,4}){0,3}$/),
    fc.array(fc.float({ noNaN: true }), { maxLength: 5 }).map((values) => float32(...values)),
    { maxKeys: 8 },
  )

  test('a valid one has no findings', () => {
    fc.assert(
      fc.property(
        tensors,
        fc.option(fc.dictionary(fc.string({ unit: 'grapheme' }), fc.string({ unit: 'grapheme' })), { nil: undefined }),
        (made, metadata) => {
          expect(rulesOf(validFile(made, metadata))).toEqual([])
        },
      ),
      { numRuns: 100 },
    )
  })

  test('the quick scan never accepts what the slow one finds fault with, and reads the same', () => {
    const mutation = fc.array(fc.tuple(fc.nat(), fc.constantFrom(...Buffer.from('0123456789{}[]",:\\\\udF. a'))), { maxLength: 3 })
    const plain = fc.dictionary(fc.stringMatching(/^[a-z]{1,8}$/), fc.array(fc.float(), { minLength: 1, maxLength: 5 }), {
      minKeys: 1,
      maxKeys: 4,
    })
    const filled = plain.map((made) => Object.fromEntries(Object.entries(made).map(([name, values]) => [name, float32(...values)])))
    let quickOnes = 0
    fc.assert(
      fc.property(filled, mutation, (made, changes) => {
        const file = validFile(made, { format: 'pt' })
        const headerEnd = 8 + Number(file.readBigUInt64LE())
        for (const [place, value] of changes) file[8 + (place % (headerEnd - 8))] = value
        const quick = quickScan('x', new Uint8Array(file.subarray(0, headerEnd)), file.length)
        if (quick === undefined) return
        quickOnes += 1
        const slow = scanHeader(file.subarray(8, headerEnd), file.length, new Findings())
        expect(slow.findings.list).toEqual([])
        expect([...quick.tensors]).toEqual(
          slow.tensors.map(({ name, dtype, shape, begin, end }) => [
            name,
            { file: 'x', dtype, shape, begin: begin + headerEnd, end: end + headerEnd },
          ]),
        )
        expect(quick.metadata).toEqual(slow.metadata)
      }),
      { numRuns: 500 },
    )
    expect(quickOnes).toBeGreaterThan(20)
  })

  test('no mutation makes the reader throw, and what it accepts lies inside the file', () => {
    const mutation = fc.array(fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 })), { minLength: 1, maxLength: 4 })
    fc.assert(
      fc.property(tensors, mutation, fc.nat({ max: 12 }), (made, changes, cut) => {
        const bytes = validFile(made)
        for (const [place, value] of changes) bytes[place % bytes.length] = value
        const file = bytes.subarray(0, bytes.length - cut)
        const { header, findings } = inspectHeader(written(folder, 'mutated.safetensors', file))
        if (header === undefined) expect(findings.some(({ severity }) => severity === 'error')).toBe(true)
        for (const { begin, end } of header?.tensors.values() ?? []) expect(begin >= 8 && begin <= end && end <= file.length).toBe(true)
      }),
      { numRuns: 300 },
    )
  })
})
