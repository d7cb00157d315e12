/*
 * The fast way through a header without any fault, as the reference writer makes it: the text is held against one pattern, entry by
 * entry, and the npm package `safetensors` reads it. As many entries of the pattern as the package has names means that no name stands
 * twice. Everything else takes the slow scan.
 */

import { alignmentOf, bitsPerValue } from './dtype.ts'
import { prefixBytes } from './header-scan.ts'
import { JsonError, scanJson } from './json-scan.ts'
import { dangerousText, longestName } from './names.ts'
import { type PackageEntry, packageEntries } from './package-reader.ts'
import type { Header, TensorInfo } from './tensor-info.ts'

const metadataStart = '{"__metadata__":'
const whole = '(?:0|[1-9]\\d*)'
/** An entry without any second spelling, with as few dimensions as models have, and what follows it. */
const entryPattern = new RegExp(
  `"[A-Za-z][\\w.-]*":\\{"dtype":"\\w+","shape":\\[(?:${whole}(?:,${whole}){0,15})?\\],"data_offsets":\\[${whole},${whole}\\]\\}[,}]`,
  'y',
)

/** A header that the slow scan would find nothing in; undefined where that is not certain. `head` is the file up to its data. */
export function quickScan(file: string, head: Uint8Array, fileBytes: number): Header | undefined {
  if (head.length % 8 !== 0 || head[prefixBytes] !== 0x7b) return undefined
  const text = Buffer.from(head.buffer, head.byteOffset, head.length).toString('latin1', prefixBytes)
  const metadata = text.startsWith(metadataStart) ? metadataOf(text) : { values: new Map<string, string>(), end: 1 }
  if (metadata === undefined) return undefined
  if (dangerousText.test(text)) return undefined
  const entries = entriesOf(head, metadata.end)
  if (entries === undefined || entries.size === 0) return undefined
  const tensors = checked(entries, { file, text, at: metadata.end, dataStart: head.length, fileBytes })
  return tensors && { tensors, metadata: metadata.values, dataBytes: fileBytes - head.length }
}

/** Metadata at the top, where the reference writer puts them, and the index in the text after them and their comma. */
function metadataOf(text: string): { values: Map<string, string>; end: number } | undefined {
  try {
    const { node, end } = scanJson(text.slice(metadataStart.length))
    const next = metadataStart.length + end
    if (node.kind !== 'object' || text[next] !== ',' || /[\u0080-\uffff]/.test(text.slice(0, next))) return undefined
    const values = new Map(node.members.flatMap(({ key, value }) => (value.kind === 'string' ? [[key, value.value]] : [])))
    return values.size === node.members.length ? { values, end: next + 1 } : undefined
  } catch (cause) {
    if (cause instanceof JsonError) return undefined
    throw cause
  }
}

/** The package's entries, the first bytes of the header's text blanked up to `end`; undefined where it cannot read the rest. */
function entriesOf(head: Uint8Array, end: number): ReadonlyMap<string, PackageEntry> | undefined {
  const bare = head.slice()
  bare.fill(0x20, prefixBytes + 1, prefixBytes + end)
  try {
    return packageEntries(bare)
  } catch {
    return undefined
  }
}

interface Place {
  readonly file: string
  readonly text: string
  /** Index in the text of the first entry. */
  readonly at: number
  readonly dataStart: number
  readonly fileBytes: number
}

/** The entries as tensors, where they are all that the text says, in the order of their data and without a hole. */
function checked(entries: ReadonlyMap<string, PackageEntry>, { file, text, at, dataStart, fileBytes }: Place) {
  const tensors = new Map<string, TensorInfo>()
  let begin = dataStart
  entryPattern.lastIndex = at
  for (const [name, { dtype, shape, data_offsets: offsets }] of entries) {
    if (!entryPattern.test(text) || name.length > longestName) return undefined
    const end = begin + bytesOf(dtype, shape)
    if (offsets[0] !== begin || offsets[1] !== end || (begin - dataStart) % alignmentOf(dtype) !== 0) return undefined
    tensors.set(name, { file, dtype, shape, begin, end })
    begin = end
  }
  return begin === fileBytes && /^ *$/.test(text.slice(entryPattern.lastIndex)) ? tensors : undefined
}

/** Bytes of a tensor; not a number where the dtype is unknown, or where it has none or no whole number of them. */
function bytesOf(dtype: string, shape: readonly number[]): number {
  let bits = bitsPerValue(dtype) ?? Number.NaN
  for (const length of shape) bits *= length
  return bits > 0 && bits <= Number.MAX_SAFE_INTEGER && bits % 8 === 0 ? bits / 8 : Number.NaN
}
