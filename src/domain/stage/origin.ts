import type { Stage, StagePath } from './schema.ts'

/** Which layer gave a value, and where it stands. Lines and columns count from 1. */
export interface Origin {
  readonly layer:
    | 'schema default'
    | 'preset'
    | 'parent stage'
    | 'file'
    | 'trial'
    | 'command line'
    | 'script'
    | 'trainer default'
    | 'environment'
    | 'run'
  readonly file?: string
  readonly line?: number
  readonly column?: number
  /** The name it was given under, where that is not the field's: an upstream flag, a variable. */
  readonly name?: string
}

/** A complete stage with where it came from: one side of a diff, one stage of a recipe, one imported script. */
export interface StageSide {
  /** What a person calls it: the address it was found under. */
  readonly label: string
  readonly stage: Stage
  /** Origin of every leaf. */
  readonly origins: ReadonlyMap<StagePath, Origin>
  /** Version of upstream's trainer whose defaults fill the stage, such as `v1.2.0`; absent for our own recipes. */
  readonly trainerVersion?: string
  /** Upstream flag each field was read from or defaulted by in this version: `text.encoder` → `text_encoder_name_1`. */
  readonly flagNames?: ReadonlyMap<StagePath, string>
  /** Findings made while reading it. */
  readonly findings: readonly Finding[]
}

/** A stage alone: nothing is known of where its values came from. */
export function bareSide(label: string, stage: Stage): StageSide {
  return { label, stage, origins: new Map(), findings: [] }
}

export type Severity = 'error' | 'warn' | 'info'

/** Something a person should look at. Rules have stable names. */
export interface Finding {
  readonly rule: string
  readonly severity: Severity
  /** *where: expected this, got that*. */
  readonly message: string
  /** Place in a file, or the fields it is about. */
  readonly where: { readonly file: string; readonly line: number; readonly column: number } | { readonly path: StagePath }
  /** All fields or upstream flags the finding points at, the one in `where` included. */
  readonly paths: readonly string[]
  readonly hint: string
}
