import { closeSync, openSync, readSync } from 'node:fs'
import { UserError } from '../domain/errors.ts'
import { maskedCrc32c } from './crc32c.ts'
import { type ScalarSink, scalarsIn, Tags } from './event-message.ts'

/*
 * TensorBoard's event files: TFRecords (length as uint64, its checksum, data, its checksum; little-endian), each an `Event` message.
 */

const headBytes = 12
const tailBytes = 4
const chunkBytes = 4 << 20
/** A record beyond this is no summary of scalars, or a damaged length that happens to have the right checksum. */
const longestRecord = 1 << 30

/** An event file read so far. A record that is not whole yet is read again once more of it is there. */
export class EventFile {
  readonly #path: string
  readonly #tags = new Tags()
  #offset = 0
  #wanted = chunkBytes

  constructor(path: string) {
    this.#path = path
  }

  /** Bytes taken so far. */
  get offset(): number {
    return this.#offset
  }

  /**
   * Scalars added since the last call. Raises UserError EVENT_FILE_DAMAGED at a record whose checksum is wrong, after everything
   * before it was given to `sink`.
   */
  next(sink: ScalarSink): void {
    const file = openSync(this.#path, 'r')
    try {
      for (;;) {
        const buffer = Buffer.allocUnsafe(this.#wanted)
        const read = readSync(file, buffer, 0, buffer.length, this.#offset)
        const { taken, missing } = this.#take(buffer.subarray(0, read), sink)
        this.#offset += taken
        const wholeChunk = read === buffer.length
        this.#wanted = Math.max(chunkBytes, missing)
        if (!wholeChunk && taken === read) return
        if (taken === 0 && (!wholeChunk || missing <= read)) return
      }
    } finally {
      closeSync(file)
    }
  }

  /** Takes the whole records at the start of some bytes; `missing` is how long the first that is not whole is. */
  #take(bytes: Buffer, sink: ScalarSink): { taken: number; missing: number } {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
    const source = { bytes, view, tags: this.#tags }
    let start = 0
    while (start + headBytes <= bytes.length) {
      if (maskedCrc32c(bytes, start, start + 8) !== view.getUint32(start + 8, true)) throw this.#damaged(start, 'length')
      const length = view.getUint32(start, true) + view.getUint32(start + 4, true) * 2 ** 32
      if (length > longestRecord) throw this.#damaged(start, 'length')
      const dataAt = start + headBytes
      const end = dataAt + length + tailBytes
      if (end > bytes.length) return { taken: start, missing: end - start }
      if (maskedCrc32c(bytes, dataAt, dataAt + length) !== view.getUint32(dataAt + length, true)) throw this.#damaged(start, 'data')
      if (!scalarsIn(source, dataAt, dataAt + length, sink)) throw this.#damaged(start, 'message')
      start = end
    }
    return { taken: start, missing: headBytes }
  }

  #damaged(start: number, what: string): UserError {
    const at = this.#offset + start
    this.#offset = at
    return new UserError('EVENT_FILE_DAMAGED', `${this.#path}: expected a whole record at byte ${at}, got one whose ${what} is damaged`, {
      hint: 'what stands before it was read; copy the file again, or cut it off there',
    })
  }
}
