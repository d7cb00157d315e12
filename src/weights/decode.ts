/*
 * Tensor bytes as numbers, to say how far two tensors are apart. Little-endian, as the format stores them.
 */

import { endianness } from 'node:os'

/** Number i of a chunk of bytes. */
export type ValueAt = (place: number) => number

type View = { readonly [place: number]: number | bigint }

const viewOf: Readonly<Record<string, (buffer: ArrayBuffer) => View>> = {
  BOOL: (buffer) => new Uint8Array(buffer),
  U8: (buffer) => new Uint8Array(buffer),
  I8: (buffer) => new Int8Array(buffer),
  U16: (buffer) => new Uint16Array(buffer),
  I16: (buffer) => new Int16Array(buffer),
  U32: (buffer) => new Uint32Array(buffer),
  I32: (buffer) => new Int32Array(buffer),
  F32: (buffer) => new Float32Array(buffer),
  F64: (buffer) => new Float64Array(buffer),
}

/** Bytes of a value that can be decoded, or undefined: 8-bit and smaller floats and complex numbers are compared by bytes alone. */
export function decodableBytes(dtype: string): number | undefined {
  return { BOOL: 1, U8: 1, I8: 1, U16: 2, I16: 2, F16: 2, BF16: 2, U32: 4, I32: 4, F32: 4, U64: 8, I64: 8, F64: 8 }[dtype]
}

/** Values of a whole number of elements that start at byte 0 of the buffer. 64-bit integers lose what a double cannot hold. */
export function valuesOf(dtype: string, buffer: ArrayBuffer): ValueAt {
  if (endianness() !== 'LE') throw new Error('numbers of safetensors need a little-endian machine')
  if (dtype === 'BF16') return bfloatAt(buffer)
  if (dtype === 'F16') return halfAt(buffer)
  if (dtype === 'I64' || dtype === 'U64') {
    const view = dtype === 'I64' ? new BigInt64Array(buffer) : new BigUint64Array(buffer)
    return (place) => Number(view[place])
  }
  const view = viewOf[dtype]?.(buffer)
  if (view === undefined) throw new Error(`no numbers for ${dtype}`)
  return (place) => view[place] as number
}

function bfloatAt(buffer: ArrayBuffer): ValueAt {
  const words = new Uint16Array(buffer)
  const float = new Float32Array(1)
  const bits = new Uint32Array(float.buffer)
  return (place) => {
    bits[0] = (words[place] ?? 0) << 16
    return float[0] ?? 0
  }
}

let halves: Float32Array | undefined

/** IEEE 754 binary16 by a table of its 65,536 values. */
function halfAt(buffer: ArrayBuffer): ValueAt {
  halves ??= Float32Array.from({ length: 65_536 }, (_, bits) => halfFrom(bits))
  const values = halves
  const words = new Uint16Array(buffer)
  return (place) => values[words[place] ?? 0] ?? 0
}

function halfFrom(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >> 10) & 0x1f
  const fraction = bits & 0x3ff
  if (exponent === 0x1f) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN
  if (exponent === 0) return sign * fraction * 2 ** -24
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
}
