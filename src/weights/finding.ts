/** `error`: the file is refused. `warn`: it can be read, but another reader may refuse or misread it. */
export type WeightSeverity = 'error' | 'warn'

export type WeightRule =
  | 'file-short'
  | 'header-length'
  | 'header-too-large'
  | 'header-truncated'
  | 'header-encoding'
  | 'header-start'
  | 'header-json'
  | 'header-trailing'
  | 'metadata-type'
  | 'name-duplicate'
  | 'name-hostile'
  | 'tensor-entry'
  | 'tensor-field'
  | 'dtype-unknown'
  | 'dtype-packing'
  | 'shape-invalid'
  | 'shape-overflow'
  | 'offsets-invalid'
  | 'size-mismatch'
  | 'data-gap'
  | 'data-overlap'
  | 'data-outside'
  | 'data-trailing'
  | 'data-misaligned'
  | 'index-json'
  | 'index-file-name'
  | 'index-shard-missing'
  | 'index-shard-unlisted'
  | 'index-tensor-missing'
  | 'index-tensor-unlisted'
  | 'index-total-size'
  | 'findings-cut'

/** One thing wrong with a weight file. */
export interface WeightFinding {
  readonly rule: WeightRule
  readonly severity: WeightSeverity
  /** Bytes from the start of the file. */
  readonly offset: number
  readonly message: string
}

const most = 1000

/** Findings of one file in the order they were made; after the thousandth only that there are more. */
export class Findings {
  readonly #list: WeightFinding[] = []
  #errors = 0

  get list(): readonly WeightFinding[] {
    return this.#list
  }

  get hasErrors(): boolean {
    return this.#errors > 0
  }

  add(severity: WeightSeverity, rule: WeightRule, offset: number, message: string): void {
    if (severity === 'error') this.#errors += 1
    if (this.#list.length < most) this.#list.push({ rule, severity, offset, message })
    else if (this.#list.length === most)
      this.#list.push({ rule: 'findings-cut', severity: 'warn', offset, message: `more than ${most} findings` })
  }
}

/** A name from a file, short and safe to print: control characters escaped, cut at 60 letters. */
export function quoted(name: string): string {
  const safe = name.slice(0, 200).replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (letter) => `\\u{${letter.codePointAt(0)?.toString(16)}}`)
  return safe.length > 60 ? `"${safe.slice(0, 59)}…"` : `"${safe}"`
}
