import { closeSync, fstatSync, openSync, readSync } from 'node:fs'
import safetensors from 'safetensors'
import { UserError } from '../domain/errors.ts'
import { Findings, type WeightFinding } from './finding.ts'
import { headerLength, prefixBytes, scanHeader } from './header-scan.ts'
import { quickScan } from './quick-scan.ts'

export interface TensorInfo {
  /** The file whose bytes `begin` to `end` hold it. */
  readonly file: string
  readonly dtype: string
  readonly shape: readonly number[]
  /** First byte of its data, from the start of the file. */
  readonly begin: number
  /** Byte after its data. */
  readonly end: number
}

export interface Header {
  /** By name, in the order of the header. */
  readonly tensors: ReadonlyMap<string, TensorInfo>
  readonly metadata: ReadonlyMap<string, string>
  /** Bytes of all tensors. */
  readonly dataBytes: number
}

/** A header and what is wrong with it; no header where an error was found. */
export interface InspectedHeader {
  readonly header: Header | undefined
  readonly findings: readonly WeightFinding[]
}

/**
 * The header of a safetensors file; nothing of its data is read.
 * Throws UserError WEIGHTS_UNREADABLE where the file cannot be opened and WEIGHTS_INVALID where the format forbids what stands there.
 */
export function readHeader(path: string): Header {
  const { header, findings } = inspectHeader(path)
  if (header !== undefined) return header
  const first = findings.find(({ severity }) => severity === 'error')
  throw new UserError('WEIGHTS_INVALID', `${path}: byte ${first?.offset ?? 0}: ${first?.message} (${first?.rule})`, {
    hint: 'the file is damaged or was not written as safetensors; `stagewright weights verify` lists everything',
  })
}

/** Reads and checks a header; what the format forbids becomes findings. Throws UserError WEIGHTS_UNREADABLE. */
export function inspectHeader(path: string): InspectedHeader {
  const findings = new Findings()
  const { json, fileBytes } = readHeaderBytes(path, findings)
  if (json === undefined) return { header: undefined, findings: findings.list }
  const dataStart = prefixBytes + json.length
  const dataBytes = fileBytes - dataStart
  const quick = quickScan(json, dataStart, fileBytes)
  if (quick !== undefined)
    return { header: { tensors: packageTensors(path, quick.text, dataStart), metadata: quick.metadata, dataBytes }, findings: [] }
  const scan = scanHeader(json, fileBytes, findings)
  if (findings.hasErrors) return { header: undefined, findings: findings.list }
  const found = packageTensors(path, withoutMetadata(json), dataStart)
  const tensors = new Map(scan.tensors.map(({ name }) => [name, placed(found, name)]))
  return { header: { tensors, metadata: scan.metadata, dataBytes }, findings: findings.list }
}

function readHeaderBytes(path: string, findings: Findings): { json: Uint8Array | undefined; fileBytes: number } {
  const file = opened(path)
  try {
    const status = fstatSync(file)
    if (!status.isFile()) throw new UserError('WEIGHTS_UNREADABLE', `${path}: expected a file`, { hint: 'name a .safetensors file' })
    const length = headerLength(readAt(file, prefixBytes, 0), status.size, findings)
    if (length === undefined) return { json: undefined, fileBytes: status.size }
    const json = readAt(file, length, prefixBytes)
    if (json.length < length)
      findings.add('error', 'header-truncated', prefixBytes + json.length, 'the file became shorter while it was read')
    return { json: json.length < length ? undefined : json, fileBytes: status.size }
  } finally {
    closeSync(file)
  }
}

function opened(path: string): number {
  try {
    return openSync(path, 'r')
  } catch (cause) {
    throw new UserError('WEIGHTS_UNREADABLE', `${path}: cannot be opened (${(cause as NodeJS.ErrnoException).code})`, {
      hint: 'check the path and its permissions',
      cause,
    })
  }
}

function readAt(file: number, length: number, position: number): Uint8Array {
  const bytes = new Uint8Array(length)
  let done = 0
  while (done < length) {
    const count = readSync(file, bytes, done, length - done, position + done)
    if (count === 0) break
    done += count
  }
  return bytes.subarray(0, done)
}

function placed(found: ReadonlyMap<string, TensorInfo>, name: string): TensorInfo {
  const tensor = found.get(name)
  if (tensor === undefined) throw new Error(`the header reader lost the tensor ${name}`)
  return tensor
}

function withoutMetadata(json: Uint8Array): string {
  const entries = JSON.parse(new TextDecoder().decode(json))
  delete entries.__metadata__
  return JSON.stringify(entries)
}

/**
 * Tensors by the npm package `safetensors`, from a header that was checked before and holds no `__metadata__`.
 * The package throws on `__metadata__`, ignores where a view starts in its buffer, and adds the header's length to each offset;
 * so it gets a fresh buffer, padded to the old length, and its offsets count from the start of the file.
 */
function packageTensors(file: string, text: string, dataStart: number): Map<string, TensorInfo> {
  const bytes = new Uint8Array(dataStart).fill(0x20)
  new TextEncoder().encodeInto(text, bytes.subarray(prefixBytes))
  new DataView(bytes.buffer).setBigUint64(0, BigInt(dataStart - prefixBytes), true)
  const tensors = new Map<string, TensorInfo>()
  for (const [name, { dtype, shape, data_offsets }] of new safetensors.SafeTensor(bytes).metadata) {
    tensors.set(name, { file, dtype, shape, begin: data_offsets[0] ?? 0, end: data_offsets[1] ?? 0 })
  }
  return tensors
}
