import { readSync } from 'node:fs'
import { UserError } from '../domain/errors.ts'
import { Findings, type WeightFinding } from './finding.ts'
import { headerLength, prefixBytes, scanHeader } from './header-scan.ts'
import { type PackageEntry, packageEntriesOf } from './package-reader.ts'
import { readPlainFile } from './plain-file.ts'
import { quickScan } from './quick-scan.ts'
import type { Header, TensorInfo } from './tensor-info.ts'

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
  const { head, fileBytes } = readHead(path, findings)
  if (head === undefined) return { header: undefined, findings: findings.list }
  const quick = quickScan(path, head, fileBytes)
  if (quick !== undefined) return { header: quick, findings: [] }
  const json = head.subarray(prefixBytes)
  const scan = scanHeader(json, fileBytes, findings)
  if (findings.hasErrors) return { header: undefined, findings: findings.list }
  const found = packageEntriesOf(withoutMetadata(json), head.length)
  const tensors = new Map(scan.tensors.map(({ name }) => [name, placed(path, found.get(name), name)]))
  return { header: { tensors, metadata: scan.metadata, dataBytes: fileBytes - head.length }, findings: findings.list }
}

/** The file up to its data, in a buffer of its own. */
function readHead(path: string, findings: Findings): { head: Uint8Array | undefined; fileBytes: number } {
  return readPlainFile(path, (file, fileBytes) => {
    const length = headerLength(readStart(file, prefixBytes), fileBytes, findings)
    if (length === undefined) return { head: undefined, fileBytes }
    const head = readStart(file, prefixBytes + length)
    const isWhole = head.length === prefixBytes + length
    if (!isWhole) findings.add('error', 'header-truncated', head.length, 'the file became shorter while it was read')
    return { head: isWhole ? head : undefined, fileBytes }
  })
}

function readStart(file: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length)
  let done = 0
  while (done < length) {
    const count = readSync(file, bytes, done, length - done, done)
    if (count === 0) break
    done += count
  }
  return bytes.subarray(0, done)
}

function placed(file: string, entry: PackageEntry | undefined, name: string): TensorInfo {
  if (entry === undefined) throw new Error(`the header reader lost the tensor ${name}`)
  const { dtype, shape, data_offsets } = entry
  return { file, dtype, shape, begin: data_offsets[0] ?? 0, end: data_offsets[1] ?? 0 }
}

function withoutMetadata(json: Uint8Array): string {
  const entries = JSON.parse(new TextDecoder().decode(json))
  delete entries.__metadata__
  return JSON.stringify(entries)
}
