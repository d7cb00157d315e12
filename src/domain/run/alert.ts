/** What one rule of the watch says at one step; `python/osplan/domain/watch/reading.py` is where it is made. */
export interface Alert {
  /** Name of the rule: `loss-spike`, `divergence`, … */
  readonly rule: string
  /** An alert is something wrong; advice is something that could go better. */
  readonly severity: 'alert' | 'advice'
  readonly step: number
  /** What was found, with numbers. */
  readonly message: string
  readonly advice: string
  readonly source: string
  readonly evidence: Evidence
}

/** The steps an alert rests on. */
interface Evidence {
  /** Name and unit of the values. */
  readonly quantity: string
  readonly from: number | null
  readonly to: number | null
  /** The newest of them, as [step, value]. */
  readonly values: readonly (readonly [number, number])[]
  readonly expected: number | null
}
