/*
 * The fast way through a header without any fault, as the reference writer makes it: the text is held against one pattern, entry by
 * entry, and only then the npm package `safetensors` reads it, so that it never sees a text that would fill the memory. As many entries
 * of the pattern as the package has names means that no name stands twice. Everything else takes the slow scan.
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
  const count = entriesIn(text, metadata.end)
  if (count === undefined) return undefined
  const entries = entriesOf(head, metadata.end)
  if (entries.size !== count) return undefined
  const tensors = checked(entries, { file, dataStart: head.length, fileBytes })
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

/** How many entries stand from `at` to the end of the text, where each is one of the pattern; undefined where anything else does. */
function entriesIn(text: string, at: number): number | undefined {
  let count = 0
  let end = at
  entryPattern.lastIndex = at
  while (entryPattern.test(text)) {
    count += 1
    end = entryPattern.lastIndex
    if (text[end - 1] === '}') break
  }
  return count > 0 && text[end - 1] === '}' && /^ *$/.test(text.slice(end)) ? count : undefined
}

/** The package's entries, the first bytes of the header's text blanked up to `end`. */
function entriesOf(head: Uint8Array, end: number): ReadonlyMap<string, PackageEntry> {
  const bare = head.slice()
  bare.fill(0x20, prefixBytes + 1, prefixBytes + end)
  return packageEntries(bare)
}

interface Place {
  readonly file: string
  readonly dataStart: number
  readonly fileBytes: number
}

/** The entries as tensors, where they stand in the order of their data and without a hole. */
function checked(entries: ReadonlyMap<string, PackageEntry>, { file, dataStart, fileBytes }: Place) {
  const tensors = new Map<string, TensorInfo>()
  let begin = dataStart
  for (const [name, { dtype, shape, data_offsets: offsets }] of entries) {
    if (name.length > longestName) return undefined
    const end = begin + bytesOf(dtype, shape)
    if (offsets[0] !== begin || offsets[1] !== end || (begin - dataStart) % alignmentOf(dtype) !== 0) return undefined
    tensors.set(name, { file, dtype, shape, begin, end })
    begin = end
  }
  return begin === fileBytes ? tensors : undefined
}

/** Bytes of a tensor; not a number where the dtype is unknown, or where it has none or no whole number of them. */
function bytesOf(dtype: string, shape: readonly number[]): number {
  let bits = bitsPerValue(dtype) ?? Number.NaN
  for (const length of shape) bits *= length
  return bits > 0 && bits <= Number.MAX_SAFE_INTEGER && bits % 8 === 0 ? bits / 8 : Number.NaN
}
