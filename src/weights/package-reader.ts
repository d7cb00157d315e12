import safetensors from 'safetensors'
import { prefixBytes } from './header-scan.ts'

/** What the npm package `safetensors` says of a tensor; offsets from the start of the file. */
export interface PackageEntry {
  readonly dtype: string
  readonly shape: readonly number[]
  readonly data_offsets: readonly number[]
}

/**
 * Entries of a header by the npm package, by name. `head` is a file up to its data, or as long and alike, at the start of its buffer:
 * the package ignores where a view starts. It checks nothing and throws on `__metadata__`, which must be gone.
 */
export function packageEntries(head: Uint8Array): ReadonlyMap<string, PackageEntry> {
  return new safetensors.SafeTensor(head).metadata
}

/** The same from a header's text that takes at most the bytes the header had: it is padded to the old length, so that offsets stay. */
export function packageEntriesOf(text: string, dataStart: number): ReadonlyMap<string, PackageEntry> {
  const head = new Uint8Array(dataStart).fill(0x20)
  new TextEncoder().encodeInto(text, head.subarray(prefixBytes))
  new DataView(head.buffer).setBigUint64(0, BigInt(dataStart - prefixBytes), true)
  return packageEntries(head)
}
