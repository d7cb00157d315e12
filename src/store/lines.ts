import { closeSync, openSync, readSync } from 'node:fs'
import { maxLineBytes } from '../domain/protocol.ts'

const newline = 0x0a
/** At least the longest line, so that a chunk without a line end is no line. */
const chunkBytes = maxLineBytes

/**
 * The whole lines of a file that grows. A torn last line is read again once more of it is there: a continued run cuts it off and writes over
 * it, so nothing of it is kept. A line beyond the limit is passed over.
 */
export class GrowingLines {
  readonly #path: string
  #offset: number
  #isSkippingLongLine = false

  constructor(path: string, offset = 0) {
    this.#path = path
    this.#offset = offset
  }

  /** Where the first line not taken yet begins, in bytes. */
  get offset(): number {
    return this.#offset
  }

  /** Hands over the lines that were added since the last call, until about `budget` bytes are read. Returns whether there may be more. */
  read(take: (bytes: Buffer, start: number, end: number) => void, budget = Number.POSITIVE_INFINITY): boolean {
    const file = openIfThere(this.#path)
    if (file === undefined) return false
    const from = this.#offset
    try {
      const buffer = Buffer.allocUnsafe(chunkBytes)
      while (this.#offset - from < budget) {
        const read = readSync(file, buffer, 0, chunkBytes, this.#offset)
        const taken = this.#take(buffer.subarray(0, read), take)
        if (taken === 0) return false
        this.#offset += taken
      }
      return true
    } finally {
      closeSync(file)
    }
  }

  /** Takes the whole lines at the start of some bytes; returns how many bytes that were. */
  #take(bytes: Buffer, take: (bytes: Buffer, start: number, end: number) => void): number {
    let start = 0
    for (let end = bytes.indexOf(newline); end !== -1; end = bytes.indexOf(newline, start)) {
      if (!this.#isSkippingLongLine) take(bytes, start, end)
      this.#isSkippingLongLine = false
      start = end + 1
    }
    if (start > 0 || bytes.length < maxLineBytes) return start
    this.#isSkippingLongLine = true
    return bytes.length
  }
}

function openIfThere(path: string): number | undefined {
  try {
    return openSync(path, 'r')
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw cause
  }
}
