export interface TensorInfo {
  /** The file whose bytes `begin` to `end` hold it. */
  readonly file: string
  readonly dtype: string
  readonly shape: readonly number[]
  /** First byte of its data, from the start of the file. */
  readonly begin: number
  /** Byte after its data. */
  readonly end: number
}

export interface Header {
  /** By name, in the order of the header. */
  readonly tensors: ReadonlyMap<string, TensorInfo>
  readonly metadata: ReadonlyMap<string, string>
  /** Bytes of all tensors. */
  readonly dataBytes: number
}
