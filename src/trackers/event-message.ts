/*
 * Scalars of TensorBoard's `Event` message, read straight from its bytes. Fields used: Event { 1 wall_time: double, 2 step: int64,
 * 5 summary }, Summary { 1 value* }, Value { 1 tag: string, 2 simple_value: float, 8 tensor }, TensorProto { 1 dtype, 4 tensor_content,
 * 5 float_val*, 6 double_val* } (tensorflow/core/util/event.proto, framework/summary.proto, framework/tensor.proto).
 */

/** Takes one scalar. Seconds since 1970. */
export type ScalarSink = (tag: string, step: number, wallTime: number, value: number) => void

const float = 1
const double = 2

/** Tags met so far: decoding the same few names again for each scalar would take longest of all. */
export class Tags {
  readonly #known: { readonly bytes: Uint8Array; readonly text: string }[] = []
  #next = 0

  /** The text of some bytes. A file repeats its tags in turns, so the one after the last is tried first. */
  textOf(bytes: Buffer, start: number, end: number): string {
    const known = this.#known
    for (let tried = 0; tried < known.length; tried += 1) {
      const place = (this.#next + tried) % known.length
      const tag = known[place]
      if (tag === undefined || !isSame(tag.bytes, bytes, start, end)) continue
      this.#next = place + 1
      return tag.text
    }
    const text = bytes.toString('utf8', start, end)
    if (known.length < mostTags) known.push({ bytes: Uint8Array.prototype.slice.call(bytes, start, end), text })
    this.#next = 0
    return text
  }
}

const mostTags = 64

function isSame(tag: Uint8Array, bytes: Uint8Array, start: number, end: number): boolean {
  if (tag.length !== end - start) return false
  // From their end: tags differ there, and begin alike.
  for (let at = tag.length - 1; at >= 0; at -= 1) if (tag[at] !== bytes[start + at]) return false
  return true
}

/** A message being walked through. */
interface Cursor {
  readonly tags: Tags
  readonly bytes: Buffer
  readonly view: DataView
  at: number
}

/** Gives the scalars of one `Event` to a sink; false where the bytes are no such message. */
export function scalarsIn(
  { bytes, view, tags }: Pick<Cursor, 'bytes' | 'view' | 'tags'>,
  start: number,
  end: number,
  sink: ScalarSink,
): boolean {
  const cursor: Cursor = { bytes, view, tags, at: start }
  let wallTime = 0
  let step = 0
  let summaryAt = -1
  let summaryEnd = -1
  while (cursor.at < end) {
    const key = varint(cursor, end)
    if (key === 9) {
      if (cursor.at + 8 > end) return false
      wallTime = view.getFloat64(cursor.at, true)
      cursor.at += 8
    } else if (key === 16) {
      step = varint(cursor, end)
      if (step < 0) return false
    } else if (key === 42) {
      const length = varint(cursor, end)
      if (length < 0 || cursor.at + length > end) return false
      summaryAt = cursor.at
      summaryEnd = cursor.at + length
      cursor.at = summaryEnd
    } else if (!skip(cursor, key, end)) return false
  }
  return cursor.at === end && (summaryAt < 0 || summary(cursor, summaryAt, summaryEnd, step, wallTime, sink))
}

function summary(cursor: Cursor, start: number, end: number, step: number, wallTime: number, sink: ScalarSink): boolean {
  cursor.at = start
  while (cursor.at < end) {
    const key = varint(cursor, end)
    if (key !== 10) {
      if (!skip(cursor, key, end)) return false
      continue
    }
    const length = varint(cursor, end)
    const valueEnd = cursor.at + length
    if (length < 0 || valueEnd > end || !value(cursor, valueEnd, step, wallTime, sink)) return false
  }
  return cursor.at === end
}

function value(cursor: Cursor, end: number, step: number, wallTime: number, sink: ScalarSink): boolean {
  let tag = ''
  let scalar: number | undefined
  while (cursor.at < end) {
    const key = varint(cursor, end)
    if (key === 21) {
      if (cursor.at + 4 > end) return false
      scalar = cursor.view.getFloat32(cursor.at, true)
      cursor.at += 4
    } else if (key === 10 || key === 66) {
      const length = varint(cursor, end)
      const inner = cursor.at + length
      if (length < 0 || inner > end) return false
      if (key === 10) tag = cursor.tags.textOf(cursor.bytes, cursor.at, inner)
      else scalar = tensorScalar(cursor, inner)
      cursor.at = inner
    } else if (!skip(cursor, key, end)) return false
  }
  if (cursor.at !== end) return false
  if (scalar !== undefined && tag !== '') sink(tag, step, wallTime, scalar)
  return true
}

/** The number of a tensor of rank 0 as PyTorch and TensorFlow 2 write scalars; undefined for any other tensor. */
function tensorScalar(cursor: Cursor, end: number): number | undefined {
  const { view } = cursor
  let dtype = 0
  let scalar: number | undefined
  while (cursor.at < end) {
    const key = varint(cursor, end)
    if (key === 8) dtype = varint(cursor, end)
    else if (key === 34 || key === 42 || key === 50) {
      const length = varint(cursor, end)
      if (length < 0 || cursor.at + length > end) return undefined
      const isFloat = key === 42 || (key === 34 && dtype === float)
      const isDouble = key === 50 || (key === 34 && dtype === double)
      if (isFloat && length === 4) scalar = view.getFloat32(cursor.at, true)
      else if (isDouble && length === 8) scalar = view.getFloat64(cursor.at, true)
      cursor.at += length
    } else if (key === 45 && cursor.at + 4 <= end) {
      scalar = view.getFloat32(cursor.at, true)
      cursor.at += 4
    } else if (key === 49 && cursor.at + 8 <= end) {
      scalar = view.getFloat64(cursor.at, true)
      cursor.at += 8
    } else if (!skip(cursor, key, end)) return undefined
  }
  return scalar
}

/** A number of seven bits a byte, as a double; −1 where it runs over the end or is longer than ten bytes. */
function varint(cursor: Cursor, end: number): number {
  let result = 0
  let scale = 1
  for (let count = 0; count < 10 && cursor.at < end; count += 1) {
    const byte = cursor.bytes[cursor.at++] as number
    result += (byte & 0x7f) * scale
    if (byte < 0x80) return result
    scale *= 128
  }
  return -1
}

/** Passes over a field nobody asked for; false where it does not fit. */
function skip(cursor: Cursor, key: number, end: number): boolean {
  if (key < 0) return false
  const kind = key % 8
  if (kind === 0) return varint(cursor, end) >= 0
  const length = kind === 1 ? 8 : kind === 5 ? 4 : kind === 2 ? varint(cursor, end) : -1
  if (length < 0 || cursor.at + length > end) return false
  cursor.at += length
  return true
}
