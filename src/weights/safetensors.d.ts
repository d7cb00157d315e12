/** What the npm package `safetensors` 0.0.1 exports under Node: a CommonJS module, so the default import. It ships no types. */
declare module 'safetensors' {
  class SafeTensor {
    /** Reads the header of a whole `Uint8Array` that starts at byte 0 of its buffer; throws on `__metadata__`. Offsets are from byte 0. */
    constructor(bytes: Uint8Array)
    readonly metadata: Map<string, { readonly dtype: string; readonly shape: number[]; readonly data_offsets: number[] }>
  }
  const safetensors: { readonly SafeTensor: typeof SafeTensor }
  export default safetensors
}
