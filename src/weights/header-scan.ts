/*
 * The header of a safetensors file, read strictly.
 * Source: "Format" in the README of huggingface/safetensors, and what its reader 0.8 refuses; rules beyond either are warnings.
 */

import { alignmentOf, bitsPerValue } from './dtype.ts'
import { type Findings, quoted } from './finding.ts'
import { JsonError, type JsonMember, type JsonNode, onlyJsonSpace, scanJson } from './json-scan.ts'
import { hostility } from './names.ts'

/** Bytes before the JSON: its length, little-endian. */
export const prefixBytes = 8
/** Longest JSON header the format allows. */
export const maxHeaderBytes = 100_000_000

/** A tensor as the header declares it; offsets in bytes from the start of the data. */
export interface DeclaredTensor {
  readonly name: string
  readonly dtype: string
  readonly shape: readonly number[]
  readonly begin: number
  readonly end: number
  /** Where its entry stands, bytes from the start of the file. */
  readonly entryOffset: number
}

export interface HeaderScan {
  readonly tensors: readonly DeclaredTensor[]
  readonly metadata: ReadonlyMap<string, string>
  readonly findings: Findings
}

/** Length of the JSON header a file announces, or undefined with a finding where it cannot be one. */
export function headerLength(prefix: Uint8Array, fileBytes: number, findings: Findings): number | undefined {
  if (prefix.length < prefixBytes || fileBytes < prefixBytes) {
    findings.add('error', 'file-short', 0, `expected at least ${prefixBytes} bytes, got ${fileBytes}`)
    return undefined
  }
  const length = new DataView(prefix.buffer, prefix.byteOffset).getBigUint64(0, true)
  if (length > BigInt(maxHeaderBytes))
    findings.add('error', 'header-too-large', 0, `expected a header of at most ${maxHeaderBytes} bytes, got ${length}`)
  else if (length < 2n) findings.add('error', 'header-length', 0, `expected a header of at least 2 bytes, got ${length}`)
  else if (Number(length) > fileBytes - prefixBytes) {
    findings.add(
      'error',
      'header-truncated',
      0,
      `expected ${length} bytes of header, the file has ${fileBytes - prefixBytes} after its first ${prefixBytes}`,
    )
  } else return Number(length)
  return undefined
}

/** Reads a header whose length was checked; `fileBytes` is the size of the whole file. Never throws: what is wrong is a finding. */
export function scanHeader(json: Uint8Array, fileBytes: number, findings: Findings): HeaderScan {
  const empty: HeaderScan = { tensors: [], metadata: new Map(), findings }
  const text = decoded(json, findings)
  if (text === undefined) return empty
  const root = rootObject(text, findings)
  if (root === undefined) return empty
  const offsetOf = byteOffsets(text, json.length)
  const dataStart = prefixBytes + json.length
  const entries = new EntryReader(findings, offsetOf)
  const scan = entries.read(root)
  if (dataStart % 8 !== 0) findings.add('warn', 'data-misaligned', dataStart, `expected the data at a multiple of 8, got byte ${dataStart}`)
  checkLayout(scan.tensors, { dataStart, dataBytes: fileBytes - dataStart, isComplete: scan.isComplete }, findings)
  return { tensors: scan.tensors, metadata: scan.metadata, findings }
}

function decoded(json: Uint8Array, findings: Findings): string | undefined {
  if (json[0] !== 0x7b)
    findings.add(
      'error',
      'header-start',
      prefixBytes,
      `expected "{" as first byte of the header, got 0x${(json[0] ?? 0).toString(16).padStart(2, '0')}`,
    )
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(json)
  } catch {
    findings.add('error', 'header-encoding', prefixBytes, 'expected UTF-8')
    return undefined
  }
}

function rootObject(text: string, findings: Findings): readonly JsonMember[] | undefined {
  try {
    const { node, end } = scanJson(text)
    const rest = text.slice(end).search(/[^ ]/)
    const byteAt = (place: number) => prefixBytes + Buffer.byteLength(text.slice(0, place))
    if (rest !== -1) {
      const isSpace = onlyJsonSpace(text.slice(end))
      const message = isSpace
        ? 'expected only spaces after the header, got other white space'
        : 'expected only spaces after the header, got more text'
      findings.add(isSpace ? 'warn' : 'error', 'header-trailing', byteAt(end + rest), message)
    }
    if (node.kind === 'object') return node.members
    findings.add('error', 'header-json', prefixBytes, `expected an object, got ${node.kind}`)
  } catch (cause) {
    if (!(cause instanceof JsonError)) throw cause
    findings.add('error', 'header-json', prefixBytes + Buffer.byteLength(text.slice(0, cause.at)), cause.message)
  }
  return undefined
}

/** From an index in the text to bytes of the file, at the cost of the distance from the place asked for before. */
function byteOffsets(text: string, bytes: number): (place: number) => number {
  if (text.length === bytes) return (place) => prefixBytes + place
  let last = { place: 0, byte: prefixBytes }
  return (place) => {
    const [from, to] = place < last.place ? [place, last.place] : [last.place, place]
    const bytesBetween = Buffer.byteLength(text.slice(from, to))
    last = { place, byte: place < last.place ? last.byte - bytesBetween : last.byte + bytesBetween }
    return last.byte
  }
}

type Fields = ReadonlyMap<string, JsonNode>

class EntryReader {
  readonly #findings: Findings
  readonly #offsetOf: (place: number) => number

  constructor(findings: Findings, offsetOf: (place: number) => number) {
    this.#findings = findings
    this.#offsetOf = offsetOf
  }

  read(members: readonly JsonMember[]) {
    const tensors: DeclaredTensor[] = []
    const names = new Set<string>()
    let metadata: ReadonlyMap<string, string> = new Map()
    let isComplete = true
    for (const member of members) {
      const offset = this.#offsetOf(member.keyStart)
      if (names.has(member.key)) this.#findings.add('error', 'name-duplicate', offset, `${quoted(member.key)} stands twice in the header`)
      names.add(member.key)
      if (member.key === '__metadata__') metadata = this.#metadata(member.value)
      else {
        const tensor = this.#tensor(member, offset)
        if (tensor === undefined) isComplete = false
        else tensors.push(tensor)
      }
    }
    return { tensors, metadata, isComplete }
  }

  #metadata(node: JsonNode): ReadonlyMap<string, string> {
    const metadata = new Map<string, string>()
    const offset = this.#offsetOf(node.start)
    if (node.kind !== 'object') {
      const severity = node.kind === 'null' ? 'warn' : 'error'
      this.#findings.add(severity, 'metadata-type', offset, `__metadata__: expected an object of strings, got ${node.kind}`)
      return metadata
    }
    for (const { key, keyStart, value } of node.members) {
      const at = this.#offsetOf(keyStart)
      if (metadata.has(key)) this.#findings.add('error', 'name-duplicate', at, `__metadata__: ${quoted(key)} stands twice`)
      if (value.kind === 'string') metadata.set(key, value.value)
      else this.#findings.add('error', 'metadata-type', at, `__metadata__: ${quoted(key)}: expected a string, got ${value.kind}`)
    }
    return metadata
  }

  #tensor({ key: name, value }: JsonMember, entryOffset: number): DeclaredTensor | undefined {
    const reason = hostility(name)
    if (reason !== undefined) this.#findings.add('warn', 'name-hostile', entryOffset, `the name ${quoted(name)} is dangerous: ${reason}`)
    if (value.kind !== 'object') {
      this.#findings.add('error', 'tensor-entry', entryOffset, `${quoted(name)}: expected an object, got ${value.kind}`)
      return undefined
    }
    const fields = this.#fields(name, value.members)
    const dtype = this.#dtype(name, fields, entryOffset)
    const shape = this.#shape(name, fields, entryOffset)
    const range = this.#range(name, fields, entryOffset)
    if (dtype === undefined || shape === undefined || range === undefined) return undefined
    const tensor: DeclaredTensor = { name, dtype, shape, begin: range.begin, end: range.end, entryOffset }
    return this.#hasRightSize(tensor) ? tensor : undefined
  }

  #fields(name: string, members: readonly JsonMember[]): Fields {
    const fields = new Map<string, JsonNode>()
    for (const { key, keyStart, value } of members) {
      if (fields.has(key))
        this.#findings.add('error', 'name-duplicate', this.#offsetOf(keyStart), `${quoted(name)}: the field ${quoted(key)} stands twice`)
      else if (!['dtype', 'shape', 'data_offsets'].includes(key)) {
        this.#findings.add('warn', 'tensor-field', this.#offsetOf(keyStart), `${quoted(name)}: unknown field ${quoted(key)}`)
      }
      fields.set(key, value)
    }
    return fields
  }

  #field(name: string, fields: Fields, field: string, entryOffset: number): JsonNode | undefined {
    const node = fields.get(field)
    if (node === undefined) this.#findings.add('error', 'tensor-field', entryOffset, `${quoted(name)}: the field ${field} is missing`)
    return node
  }

  #dtype(name: string, fields: Fields, entryOffset: number): string | undefined {
    const node = this.#field(name, fields, 'dtype', entryOffset)
    if (node === undefined) return undefined
    if (node.kind === 'string' && bitsPerValue(node.value) !== undefined) return node.value
    const got = node.kind === 'string' ? quoted(node.value) : node.kind
    this.#findings.add('error', 'dtype-unknown', this.#offsetOf(node.start), `${quoted(name)}: expected a dtype of the format, got ${got}`)
    return undefined
  }

  #shape(name: string, fields: Fields, entryOffset: number): number[] | undefined {
    const node = this.#field(name, fields, 'shape', entryOffset)
    if (node === undefined) return undefined
    const shape = node.kind === 'array' ? node.items.map(wholeNumber) : [undefined]
    if (shape.every((length) => length !== undefined)) return shape
    this.#findings.add(
      'error',
      'shape-invalid',
      this.#offsetOf(node.start),
      `${quoted(name)}: expected a shape of whole numbers from 0 to 2^53 - 1`,
    )
    return undefined
  }

  #range(name: string, fields: Fields, entryOffset: number): { begin: number; end: number } | undefined {
    const node = this.#field(name, fields, 'data_offsets', entryOffset)
    if (node === undefined) return undefined
    const [begin, end, ...more] = node.kind === 'array' ? node.items.map(wholeNumber) : []
    if (begin !== undefined && end !== undefined && more.length === 0 && begin <= end) return { begin, end }
    this.#findings.add(
      'error',
      'offsets-invalid',
      this.#offsetOf(node.start),
      `${quoted(name)}: expected data_offsets as [begin, end] with begin ≤ end`,
    )
    return undefined
  }

  #hasRightSize({ name, dtype, shape, begin, end, entryOffset }: DeclaredTensor): boolean {
    const bits = bitsPerValue(dtype) ?? 0
    const values = checkedProduct(shape)
    const totalBits = values === undefined ? undefined : values * BigInt(bits)
    if (totalBits === undefined || totalBits > 2n ** 64n - 1n) {
      this.#findings.add('error', 'shape-overflow', entryOffset, `${quoted(name)}: the shape has more values than 64 bits can count`)
      return false
    }
    if (totalBits % 8n !== 0n) {
      this.#findings.add('error', 'dtype-packing', entryOffset, `${quoted(name)}: expected whole bytes, got ${totalBits} bits of ${dtype}`)
      return false
    }
    if (totalBits / 8n === BigInt(end - begin)) return true
    this.#findings.add(
      'error',
      'size-mismatch',
      entryOffset,
      `${quoted(name)}: expected ${totalBits / 8n} bytes for ${dtype} [${shape.join(', ')}], got ${end - begin}`,
    )
    return false
  }
}

/** Product of lengths, multiplied in order as the reference reader does it: a zero does not excuse an overflow before it. */
function checkedProduct(shape: readonly number[]): bigint | undefined {
  let product = 1n
  for (const length of shape) {
    product *= BigInt(length)
    if (product > 2n ** 64n - 1n) return undefined
  }
  return product
}

function wholeNumber(node: JsonNode): number | undefined {
  if (node.kind !== 'number' || !/^\d+$/.test(node.text)) return undefined
  const value = Number(node.text)
  return Number.isSafeInteger(value) ? value : undefined
}

interface DataSection {
  readonly dataStart: number
  readonly dataBytes: number
  /** False where some entry could not be read: then gaps and trailing bytes mean nothing. */
  readonly isComplete: boolean
}

function checkLayout(tensors: readonly DeclaredTensor[], { dataStart, dataBytes, isComplete }: DataSection, findings: Findings): void {
  const inOrder = [...tensors].sort((a, b) => a.begin - b.begin || a.end - b.end)
  let end = 0
  for (const tensor of inOrder) {
    const name = quoted(tensor.name)
    if (tensor.begin < end)
      findings.add(
        'error',
        'data-overlap',
        dataStart + tensor.begin,
        `${name} begins ${end - tensor.begin} bytes before the tensor before it ends`,
      )
    else if (tensor.begin > end && isComplete)
      findings.add('error', 'data-gap', dataStart + end, `${tensor.begin - end} bytes before ${name} belong to no tensor`)
    if (tensor.end > dataBytes)
      findings.add(
        'error',
        'data-outside',
        tensor.entryOffset,
        `${name} ends at byte ${dataStart + tensor.end}, the file at ${dataStart + dataBytes}`,
      )
    const alignment = alignmentOf(tensor.dtype)
    if (tensor.begin % alignment !== 0) {
      findings.add(
        'warn',
        'data-misaligned',
        dataStart + tensor.begin,
        `${name}: expected ${tensor.dtype} at a multiple of ${alignment} in the data, got ${tensor.begin}`,
      )
    }
    end = Math.max(end, tensor.end)
  }
  if (end < dataBytes && isComplete)
    findings.add('error', 'data-trailing', dataStart + end, `${dataBytes - end} bytes after the last tensor`)
}
