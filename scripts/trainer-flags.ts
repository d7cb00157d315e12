import { readFileSync, writeFileSync } from 'node:fs'

/*
 * Writes src/upstream/trainer-flags.generated.json, the flags of every trainer version, from a survey of upstream's argument parsers:
 *   node scripts/trainer-flags.ts SURVEY.json
 * The survey is a list of {ref, trainer, flags: {name: {default, type, action, choices, required, read_by_trainer_or_dataset}}}.
 */

interface Surveyed {
  readonly default?: unknown
  readonly type?: string | null
  readonly action?: string
  readonly choices?: readonly string[] | string
  readonly required?: boolean | string
  readonly read_by_trainer_or_dataset?: boolean
}

const [survey] = process.argv.slice(2)
if (survey === undefined) throw new Error('usage: node scripts/trainer-flags.ts SURVEY.json')
const trainers = JSON.parse(readFileSync(survey, 'utf8')) as { ref: string; trainer: string; flags: Record<string, Surveyed> }[]

function kindOf({ action, type }: Surveyed): string {
  if (action === 'store_true') return 'switch'
  return /bool/.test(type ?? '') ? 'bool' : (type ?? 'str')
}

const compact = trainers.map(({ ref, trainer, flags }) => ({
  ref,
  trainer,
  flags: Object.fromEntries(
    Object.entries(flags).map(([name, flag]) => [
      name,
      {
        type: kindOf(flag),
        default: flag.default ?? null,
        ...(Array.isArray(flag.choices) ? { choices: flag.choices } : {}),
        ...(flag.required === true ? { required: true } : {}),
        ...(flag.read_by_trainer_or_dataset === false ? { unread: true } : {}),
      },
    ]),
  ),
}))

const lines = compact.map(
  ({ ref, trainer, flags }) =>
    `{"ref":${JSON.stringify(ref)},"trainer":${JSON.stringify(trainer)},"flags":{\n${Object.entries(flags)
      .map(([name, flag]) => `${JSON.stringify(name)}:${JSON.stringify(flag)}`)
      .join(',\n')}\n}}`,
)
writeFileSync(new URL('../src/upstream/trainer-flags.generated.json', import.meta.url), `[\n${lines.join(',\n')}\n]\n`)
