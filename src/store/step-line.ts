import type { TrainerEvent } from '../domain/protocol.ts'

/*
 * Nearly every line of a journal is a `step`. Those made of plain numbers are recognised here in a fraction of the time that the schema
 * takes; whatever is not is left to the schema, which decides.
 */

type Step = Extract<TrainerEvent, { event: 'step' }>
type Unknown = { readonly [name: string]: unknown }

/** A value as the `step` event it is, where it is one beyond doubt; undefined where the schema has to say. */
export function plainStep(value: unknown): Step | undefined {
  if (typeof value !== 'object' || value === null) return undefined
  const line = value as Unknown
  const isPlain =
    line.event === 'step' &&
    isCount(line.seq) &&
    isNumber(line.ts) &&
    isCount(line.attempt) &&
    isCount(line.step) &&
    isNumber(line.loss) &&
    isNumber(line.learningRate) &&
    isNumber(line.secondsPerStep) &&
    (isNone(line.gradientNorm) || isNumber(line.gradientNorm)) &&
    (isNone(line.clips) || isCount(line.clips)) &&
    (isNone(line.tokens) || isCount(line.tokens)) &&
    (isNone(line.memoryBytes) || isCount(line.memoryBytes)) &&
    (isNone(line.split) || isNumbers(line.split)) &&
    (isNone(line.extra) || isNumbers(line.extra)) &&
    (isNone(line.lossByBin) || isNumberList(line.lossByBin))
  return isPlain ? (value as Step) : undefined
}

function isNone(value: unknown): boolean {
  return value === undefined || value === null
}

function isNumber(value: unknown): boolean {
  return typeof value === 'number' && Number.isFinite(value)
}

function isCount(value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 0
}

function isNumbers(value: unknown): boolean {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return false
  for (const name in value) if (!isNumber((value as Unknown)[name])) return false
  return true
}

function isNumberList(value: unknown): boolean {
  return Array.isArray(value) && value.every((entry) => entry === null || isNumber(entry))
}
