/** One number at a step, under the name its writer gave it. Seconds since 1970; not a number where the log has no times. */
export interface Scalar {
  readonly tag: string
  readonly step: number
  readonly wallTime: number
  readonly value: number
}

/** Somebody else's log: what has been added since the last call. */
export interface CurveSource {
  next(): Scalar[]
}
