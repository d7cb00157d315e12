import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export interface MadeTensor {
  readonly dtype: string
  readonly shape: readonly number[]
  readonly bytes: Uint8Array
}

export function temporaryFolder(): string {
  return mkdtempSync(join(tmpdir(), 'weights-'))
}

/** A safetensors file from a header text as it is and data bytes. */
export function rawFile(header: string | Uint8Array, data: Uint8Array = new Uint8Array()): Buffer {
  const json = typeof header === 'string' ? Buffer.from(header) : Buffer.from(header)
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.length))
  return Buffer.concat([length, json, data])
}

/** A valid file: data in the order given, header padded to 8 bytes. */
export function validFile(tensors: Readonly<Record<string, MadeTensor>>, metadata?: Readonly<Record<string, string>>): Buffer {
  let end = 0
  const entries = Object.entries(tensors).map(([name, { dtype, shape, bytes }]) => {
    const begin = end
    end += bytes.length
    return [name, { dtype, shape, data_offsets: [begin, end] }]
  })
  const text = JSON.stringify({ ...(metadata ? { __metadata__: metadata } : {}), ...Object.fromEntries(entries) })
  const length = Math.ceil(Buffer.byteLength(text) / 8) * 8
  const padding = ' '.repeat(length - Buffer.byteLength(text))
  return rawFile(text + padding, Buffer.concat(Object.values(tensors).map(({ bytes }) => bytes)))
}

export function float32(...values: number[]): MadeTensor {
  return { dtype: 'F32', shape: [values.length], bytes: new Uint8Array(new Float32Array(values).buffer) }
}

export function written(folder: string, name: string, bytes: Uint8Array): string {
  const path = join(folder, name)
  writeFileSync(path, bytes)
  return path
}
