/*
 * CRC-32C (Castagnoli), as RFC 3720 appendix B.4 defines it, eight bytes at a time ("slicing-by-8", Kounavis and Berry 2005).
 */

const polynomial = 0x82f63b78
/** Eight tables of 256 entries, one after the other. */
const table = madeTable()

function madeTable(): Uint32Array {
  const all = new Uint32Array(8 * 256)
  for (let byte = 0; byte < 256; byte += 1) {
    let crc = byte
    for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? (crc >>> 1) ^ polynomial : crc >>> 1
    all[byte] = crc >>> 0
  }
  for (let entry = 256; entry < all.length; entry += 1) {
    const before = all[entry - 256] as number
    all[entry] = (all[before & 0xff] as number) ^ (before >>> 8)
  }
  return all
}

/** CRC-32C of the bytes from `start` to before `end`. */
export function crc32c(bytes: Uint8Array, start: number, end: number): number {
  let crc = 0xffffffff
  let index = start
  for (; index + 8 <= end; index += 8) {
    const low =
      crc ^
      ((bytes[index] as number) |
        ((bytes[index + 1] as number) << 8) |
        ((bytes[index + 2] as number) << 16) |
        ((bytes[index + 3] as number) << 24))
    crc =
      (table[0x700 + (low & 0xff)] as number) ^
      (table[0x600 + ((low >>> 8) & 0xff)] as number) ^
      (table[0x500 + ((low >>> 16) & 0xff)] as number) ^
      (table[0x400 + (low >>> 24)] as number) ^
      (table[0x300 + (bytes[index + 4] as number)] as number) ^
      (table[0x200 + (bytes[index + 5] as number)] as number) ^
      (table[0x100 + (bytes[index + 6] as number)] as number) ^
      (table[bytes[index + 7] as number] as number)
  }
  for (; index < end; index += 1) crc = (table[(crc ^ (bytes[index] as number)) & 0xff] as number) ^ (crc >>> 8)
  return ~crc >>> 0
}

/** The form TFRecord files store it in (tensorflow/core/lib/hash/crc32c.h). */
export function maskedCrc32c(bytes: Uint8Array, start: number, end: number): number {
  const crc = crc32c(bytes, start, end)
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0
}
