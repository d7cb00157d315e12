/** Bits of one value, for every dtype of the reference implementation (safetensors 0.8, `tensor.rs`). */
const bitsOf: ReadonlyMap<string, number> = new Map([
  ['BOOL', 8],
  ['U8', 8],
  ['I8', 8],
  ['F8_E5M2', 8],
  ['F8_E4M3', 8],
  ['F8_E8M0', 8],
  ['F8_E4M3FNUZ', 8],
  ['F8_E5M2FNUZ', 8],
  ['F4', 4],
  ['F6_E2M3', 6],
  ['F6_E3M2', 6],
  ['I16', 16],
  ['U16', 16],
  ['F16', 16],
  ['BF16', 16],
  ['I32', 32],
  ['U32', 32],
  ['F32', 32],
  ['I64', 64],
  ['U64', 64],
  ['F64', 64],
  ['C64', 64],
])

/** Bits of one value, or undefined for a dtype the format does not know. */
export function bitsPerValue(dtype: string): number | undefined {
  return bitsOf.get(dtype)
}

/** Bytes a value should be aligned to; 1 for packed dtypes, 4 for complex ones made of two F32. */
export function alignmentOf(dtype: string): number {
  if (dtype === 'C64') return 4
  return Math.max(1, (bitsOf.get(dtype) ?? 8) >> 3)
}
