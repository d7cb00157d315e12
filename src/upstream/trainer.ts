import { UserError } from '../domain/errors.ts'
import table from './trainer-flags.generated.json' with { type: 'json' }

/** One option of a trainer's argument parser. */
export interface FlagSpec {
  /** `switch` takes no value; `bool` takes one or none. */
  readonly type: 'str' | 'int' | 'float' | 'bool' | 'switch'
  readonly default: FlagValue
  readonly choices?: readonly string[]
  readonly required?: boolean
  /** Parsed, and then read by nothing. */
  readonly unread?: boolean
}

export type FlagValue = string | number | boolean | null | readonly (string | number | boolean)[]

export type Family = 'diffusion' | 'inpaint' | 'lora' | 'vae' | 'class' | 'videogpt' | 'megatron'

/** One trainer at one point of upstream's history. */
export interface Trainer {
  /** A tag such as `v1.3.1`, or `v1.3+74a3a6f1` for a commit after one. */
  readonly version: string
  /** The tag or commit. */
  readonly ref: string
  /** Path of the program in upstream's tree. */
  readonly path: string
  readonly family: Family
  readonly flags: Readonly<Record<string, FlagSpec>>
}

/** The commits between tags whose parsers differ from every tag's, with the release they follow. */
const releaseOfCommit: Readonly<Record<string, string>> = {
  de7fc315: 'v1.2',
  '74a3a6f1': 'v1.3',
  '592c89f5': 'v1.3',
  '7a4227d5': 'v1.5',
  '722fc88c': 'v1.5',
}

const families: readonly (readonly [RegExp, Family])[] = [
  [/lora/, 'lora'],
  [/inpaint/, 'inpaint'],
  [/causalvae/, 'vae'],
  [/videogpt/, 'videogpt'],
  [/config\.py$/, 'megatron'],
  [/train_t2v/, 'diffusion'],
  [/./, 'class'],
]

/** Every trainer whose argument parser is known, oldest first within a program. */
export const trainers: readonly Trainer[] = (table as unknown as { ref: string; trainer: string; flags: Trainer['flags'] }[]).map(
  ({ ref, trainer, flags }) => ({
    version: ref in releaseOfCommit ? `${releaseOfCommit[ref]}+${ref}` : ref,
    ref,
    path: trainer,
    family: families.find(([pattern]) => pattern.test(trainer))?.[1] ?? 'diffusion',
    flags,
  }),
)

/** Versions a person may name. */
export const trainerVersions: readonly string[] = [...new Set(trainers.map(({ version }) => version))]

/** Whether a tag or commit is one whose parsers are known. */
export function isKnownVersion(ref: string): boolean {
  return trainers.some((trainer) => trainer.version === ref || trainer.ref === ref)
}

/**
 * Trainers a person means by `v1.2`, `1.3.1` or a commit: those of that version, or of every version that starts so.
 * Raises UserError UPSTREAM_VERSION where there is none.
 */
export function trainersOf(version: string): readonly Trainer[] {
  const wanted = /^\d/.test(version) && !trainers.some(({ ref }) => ref === version) ? `v${version}` : version
  const exact = trainers.filter((trainer) => trainer.version === wanted || trainer.ref === wanted)
  const within = trainers.filter((trainer) => trainer.version.startsWith(`${wanted}.`) || trainer.version.startsWith(`${wanted}+`))
  if (exact.length > 0) return exact
  if (within.length > 0) return within
  throw new UserError('UPSTREAM_VERSION', `${version}: expected a version of upstream’s trainer, got none that is known`, {
    hint: `known: ${trainerVersions.join(', ')}`,
  })
}
