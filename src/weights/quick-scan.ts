/*
 * The fast way through a header without any fault, as the reference writer makes it. Native JSON does the work: a text that is
 * its own re-serialisation has no duplicate, no white space, no second spelling of a number. Everything else takes the slow scan.
 */

import { alignmentOf, bitsPerValue } from './dtype.ts'
import type { DeclaredTensor } from './header-scan.ts'
import { isPlainName } from './names.ts'

export interface QuickScan {
  /** The header as JSON without `__metadata__`. */
  readonly text: string
  readonly tensors: readonly DeclaredTensor[]
  readonly metadata: ReadonlyMap<string, string>
}

/** Tensors and metadata of a header that the slow scan would find nothing in; undefined where that is not certain. */
export function quickScan(json: Uint8Array, dataStart: number, fileBytes: number): QuickScan | undefined {
  if (dataStart % 8 !== 0 || json[0] !== 0x7b) return undefined
  const text = Buffer.from(json.buffer, json.byteOffset, json.byteLength).toString('latin1').replace(/ +$/, '')
  const entries = canonical(text)
  if (entries === undefined) return undefined
  const metadata = new Map<string, string>()
  const tensors: DeclaredTensor[] = []
  for (const name in entries) {
    const entry = entries[name]
    if (name === '__metadata__') {
      if (!readMetadata(entry, metadata)) return undefined
    } else {
      const tensor = isPlainName(name) ? plainTensor(name, entry) : undefined
      if (tensor === undefined) return undefined
      tensors.push(tensor)
    }
  }
  return isContiguous(tensors, fileBytes - dataStart) ? { text: withoutMetadata(text, entries), tensors, metadata } : undefined
}

/** The text less its metadata. It is its own re-serialisation, so the member stands there as it would be written, first at the top. */
function withoutMetadata(text: string, entries: Record<string, unknown>): string {
  if (!('__metadata__' in entries)) return text
  const member = `"__metadata__":${JSON.stringify(entries.__metadata__)}`
  const start = text.indexOf(member)
  const end = start + member.length
  if (text[end] === ',') return text.slice(0, start) + text.slice(end + 1)
  return text.slice(0, text[start - 1] === ',' ? start - 1 : start) + text.slice(end)
}

/** The parsed text if it is ASCII and its own re-serialisation. Escaped surrogates could be lone ones. */
function canonical(text: string): Record<string, unknown> | undefined {
  if (/[\u0080-\uffff]/.test(text) || text.includes('\\ud')) return undefined
  try {
    const parsed: Record<string, unknown> = JSON.parse(text)
    return JSON.stringify(parsed) === text ? parsed : undefined
  } catch {
    return undefined
  }
}

function readMetadata(entry: unknown, into: Map<string, string>): boolean {
  if (!isObject(entry)) return false
  for (const [key, value] of Object.entries(entry)) {
    if (typeof value !== 'string') return false
    into.set(key, value)
  }
  return true
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function plainTensor(name: string, entry: unknown): DeclaredTensor | undefined {
  if (!isObject(entry)) return undefined
  let fields = 0
  for (const _ in entry) fields += 1
  const { dtype, shape, data_offsets: offsets } = entry
  if (fields !== 3 || typeof dtype !== 'string' || !isLengths(shape) || !isLengths(offsets) || offsets.length !== 2) return undefined
  const bits = bitsPerValue(dtype)
  const [begin = 0, end = 0] = offsets
  if (bits === undefined || begin > end || begin % alignmentOf(dtype) !== 0) return undefined
  let totalBits = bits
  for (const length of shape) {
    totalBits *= length
    if (!(totalBits > 0 && totalBits <= Number.MAX_SAFE_INTEGER)) return undefined
  }
  return totalBits === (end - begin) * 8 ? { name, dtype, shape, begin, end, entryOffset: 0 } : undefined
}

function isLengths(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((length) => Number.isSafeInteger(length) && length >= 0)
}

/** True where the header lists tensors in the order of their data, as the reference writer does. */
function isContiguous(tensors: readonly DeclaredTensor[], dataBytes: number): boolean {
  let end = 0
  for (const tensor of tensors) {
    if (tensor.begin !== end) return false
    end = tensor.end
  }
  return end === dataBytes
}
