import { readFileSync } from 'node:fs'
import { UserError } from '../domain/errors.ts'
import { Findings, quoted, type WeightFinding } from './finding.ts'
import { maxHeaderBytes } from './header-scan.ts'
import { JsonError, type JsonMember, type JsonNode, onlyJsonSpace, scanJson } from './json-scan.ts'
import { pathHostility } from './names.ts'
import { readPlainFile } from './plain-file.ts'

/** What an `….safetensors.index.json` says: which file holds which tensor. */
export interface ShardIndex {
  /** Tensor name to the file beside the index. */
  readonly fileOf: ReadonlyMap<string, string>
  /** `metadata.total_size` in bytes, where it is given. */
  readonly totalSize: number | undefined
}

/** The index in a file. Throws UserError WEIGHTS_UNREADABLE or WEIGHTS_INVALID. */
export function readShardIndex(path: string): ShardIndex {
  const { index, findings } = inspectShardIndex(path)
  const first = findings.find(({ severity }) => severity === 'error')
  if (first === undefined) return index
  throw new UserError('WEIGHTS_INVALID', `${path}: byte ${first.offset}: ${first.message} (${first.rule})`, {
    hint: 'write the index anew, or name one shard; `stagewright weights verify` lists everything',
  })
}

/** The index and what is wrong with it; entries with an error are left out. Throws UserError WEIGHTS_UNREADABLE. */
export function inspectShardIndex(path: string): { readonly index: ShardIndex; readonly findings: readonly WeightFinding[] } {
  const findings = new Findings()
  const root = parsed(path, findings)
  if (root?.kind === 'object') refuseTwice(root.members, findings)
  const fileOf = new Map<string, string>()
  const map = memberOf(root, 'weight_map')
  if (map?.kind === 'object') readEntries(map.members, fileOf, findings)
  else if (root !== undefined)
    findings.add('error', 'index-json', root.start, 'expected an object with a weight_map of tensor names to file names')
  return { index: { fileOf, totalSize: totalSizeOf(root, findings) }, findings: findings.list }
}

function parsed(path: string, findings: Findings): JsonNode | undefined {
  const bytes = readBytes(path, findings)
  if (bytes === undefined) return undefined
  try {
    const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
    const { node, end } = scanJson(text)
    if (onlyJsonSpace(text.slice(end))) return node
    findings.add('error', 'index-json', end, 'expected nothing after the index, got more text')
  } catch (cause) {
    if (cause instanceof JsonError) findings.add('error', 'index-json', cause.at, cause.message)
    else if (cause instanceof TypeError) findings.add('error', 'index-json', 0, 'expected UTF-8')
    else throw cause
  }
  return undefined
}

function readBytes(path: string, findings: Findings): Uint8Array | undefined {
  return readPlainFile(path, (file, bytes) => {
    if (bytes <= maxHeaderBytes) return readFileSync(file)
    findings.add('error', 'index-json', 0, `expected an index of at most ${maxHeaderBytes} bytes, got ${bytes}`)
    return undefined
  })
}

function memberOf(node: JsonNode | undefined, key: string): JsonNode | undefined {
  return node?.kind === 'object' ? node.members.findLast((member) => member.key === key)?.value : undefined
}

function totalSizeOf(root: JsonNode | undefined, findings: Findings): number | undefined {
  const size = memberOf(memberOf(root, 'metadata'), 'total_size')
  if (size === undefined) return undefined
  const bytes = size.kind === 'number' ? Number(size.text) : Number.NaN
  if (Number.isSafeInteger(bytes) && bytes >= 0) return bytes
  findings.add('error', 'index-total-size', size.start, 'metadata.total_size: expected a whole number of bytes')
  return undefined
}

function refuseTwice(members: readonly JsonMember[], findings: Findings): void {
  const keys = new Set<string>()
  for (const { key, keyStart } of members) {
    if (keys.has(key)) findings.add('error', 'name-duplicate', keyStart, `the field ${quoted(key)} stands twice in the index`)
    keys.add(key)
  }
}

function readEntries(members: readonly JsonMember[], fileOf: Map<string, string>, findings: Findings): void {
  for (const { key, keyStart, value } of members) {
    if (fileOf.has(key)) findings.add('error', 'name-duplicate', keyStart, `${quoted(key)} stands twice in the index`)
    const reason = value.kind === 'string' ? fileNameFault(value.value) : `expected a file name, got ${value.kind}`
    if (reason !== undefined) findings.add('error', 'index-file-name', value.start, `${quoted(key)}: ${reason}`)
    else if (value.kind === 'string') fileOf.set(key, value.value)
  }
}

/** A shard lies beside its index: no folders, no escapes that a later reader could decode into one. */
function fileNameFault(name: string): string | undefined {
  const reason = pathHostility(name)
  if (reason !== undefined) return `the file name ${quoted(name)} is refused: ${reason}`
  if (/[/\\%]|\p{Cc}/u.test(name)) return `the file name ${quoted(name)} is refused: it must be a plain name beside the index`
  if (!name.endsWith('.safetensors')) return `expected a .safetensors file, got ${quoted(name)}`
  return undefined
}
