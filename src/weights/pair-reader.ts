import { closeSync, openSync, readSync } from 'node:fs'
import { UserError } from '../domain/errors.ts'
import type { TensorInfo } from './tensor-info.ts'

/** Bytes read at a time; larger blocks leave the processor's cache, smaller ones cost calls. */
const blockBytes = 4 * 1024 * 1024

/** Reads two tensors side by side through the same two buffers; files stay open until `close`. */
export class PairReader {
  readonly #files = new Map<string, number>()
  readonly #a = Buffer.from(new ArrayBuffer(blockBytes))
  readonly #b = Buffer.from(new ArrayBuffer(blockBytes))

  /** True where the tensors, of equal size, have the same bytes; stops at the first difference. */
  sameBytes(a: TensorInfo, b: TensorInfo): boolean {
    const bytes = a.end - a.begin
    for (let done = 0; done < bytes; done += blockBytes) {
      const count = Math.min(blockBytes, bytes - done)
      this.#fill(a, done, count, this.#a)
      this.#fill(b, done, count, this.#b)
      if (this.#a.compare(this.#b, 0, count, 0, count) !== 0) return false
    }
    return true
  }

  /** Gives matching blocks of `valuesPerBlock` values at most, as fresh buffers that start at byte 0. */
  *blocks(a: TensorInfo, b: TensorInfo, values: number, bytesOf: { readonly a: number; readonly b: number }) {
    const valuesPerBlock = blockBytes / 8
    for (let done = 0; done < values; done += valuesPerBlock) {
      const count = Math.min(valuesPerBlock, values - done)
      this.#fill(a, done * bytesOf.a, count * bytesOf.a, this.#a)
      this.#fill(b, done * bytesOf.b, count * bytesOf.b, this.#b)
      yield { a: this.#a.buffer, b: this.#b.buffer, count }
    }
  }

  close(): void {
    for (const file of this.#files.values()) closeSync(file)
    this.#files.clear()
  }

  #fill(tensor: TensorInfo, from: number, count: number, into: Buffer): void {
    let done = 0
    while (done < count) {
      const got = readSync(this.#opened(tensor.file), into, done, count - done, tensor.begin + from + done)
      if (got === 0)
        throw new UserError('WEIGHTS_CUT', `${tensor.file}: became shorter while it was read`, {
          hint: 'compare again when nothing writes it',
        })
      done += got
    }
  }

  #opened(path: string): number {
    const open = this.#files.get(path) ?? openSync(path, 'r')
    this.#files.set(path, open)
    return open
  }
}
