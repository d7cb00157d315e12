import { z } from 'zod'
import { type EngineChoice, slurmSettings } from '../domain/engine-choice.ts'
import { nearestName } from '../domain/nearest.ts'
import { formatVersion } from '../domain/protocol.ts'
import { shown } from './expectation.ts'
import { type Located, placeInside, plainValue } from './located.ts'
import { errorOf, type Place, type Problem } from './problems.ts'
import { readYaml } from './yaml.ts'

/*
 * The engine file: named places to train at, for `--engine NAME`. Settings of a cluster belong to whoever trains there, not to a stage.
 */

const engineFile = z.strictObject({
  formatVersion: z.literal(formatVersion),
  engines: z.record(
    z.string(),
    z.discriminatedUnion('kind', [z.strictObject({ kind: z.literal('local') }), slurmSettings.extend({ kind: z.literal('slurm') })]),
  ),
})

/** What is asked for on the command line. */
export interface WantedEngine {
  /** A name of the engine file, or one of the kinds `local` and `slurm`. */
  readonly name: string
  /** `name=value` on top of a cluster's settings. */
  readonly set: readonly string[]
}

/** The engine asked for, from its file (undefined where there is none) and the options on top. Raises UserErrors with places. */
export function engineChoiceOf(wanted: WantedEngine, file: { name: string; bytes: Uint8Array | string } | undefined): EngineChoice {
  const engines = file ? enginesIn(readYaml(file.bytes, file.name), file.name) : {}
  const known = engines[wanted.name] ?? (wanted.name === 'local' || wanted.name === 'slurm' ? { kind: wanted.name } : undefined)
  if (!known) throw unknownEngine(wanted.name, [...Object.keys(engines), 'local', 'slurm'])
  const { kind, ...settings } = known
  if (kind === 'slurm') return { formatVersion, kind, slurm: withOptions(settings, wanted.set) }
  const [option] = wanted.set
  if (option !== undefined)
    throw problem({ file: `--slurm ${option}` }, `expected a Slurm engine for it, got ${wanted.name}`, '--engine slurm')
  return { formatVersion, kind }
}

function enginesIn(node: Located, file: string): z.output<typeof engineFile>['engines'] {
  const read = engineFile.safeParse(plainValue(node))
  if (read.success) return read.data.engines
  throw errorOf(read.error.issues.flatMap((issue) => problemsOf(issue, node, file)))
}

function problemsOf(issue: z.core.$ZodIssue, node: Located, file: string): Problem[] {
  const path = issue.path.map(String).join('.')
  if (issue.code !== 'unrecognized_keys') {
    return [{ code: 'CONFIG_INVALID', place: placeInside(node, issue.path), path, text: issue.message.replace(/^Invalid input: /, '') }]
  }
  return issue.keys.map((key) => {
    const near = nearestName(key, Object.keys(slurmSettings.shape))
    return {
      code: 'CONFIG_UNKNOWN_KEY',
      place: placeInside(node, [...issue.path, key]) ?? { file },
      path,
      text: `expected a setting of an engine, got ${key}`,
      ...(near ? { hint: `did you mean ${near}?` } : {}),
    }
  })
}

function withOptions(settings: object, options: readonly string[]) {
  const merged: Record<string, unknown> = { ...settings }
  for (const option of options) {
    const [, name, value] = /^(\w+)=([\s\S]*)$/.exec(option) ?? []
    const place = { file: `--slurm ${option}` }
    if (name === undefined || value === undefined)
      throw problem(place, `expected name=value, got ${option}`, 'for example --slurm partition=gpu')
    const field = slurmSettings.shape[name as keyof typeof slurmSettings.shape]
    if (!field) {
      const near = nearestName(name, Object.keys(slurmSettings.shape))
      throw problem(place, `expected a setting of Slurm, got ${name}`, near ? `did you mean ${near}?` : 'docs/clusters.md lists them')
    }
    const typed = plainValue(readYaml(value, place.file))
    // 04:00 is a text of YAML 1.2, 60 a number; both are times.
    const read = [typed, value].map((candidate) => field.safeParse(candidate)).find(({ success }) => success)
    if (!read) throw problem(place, `${name}: expected ${reasonFor(field, value)}, got ${shown(typed)}`, 'docs/clusters.md lists them')
    merged[name] = read.data
  }
  return slurmSettings.parse(merged)
}

function reasonFor(field: z.ZodType, value: string): string {
  return field.safeParse(value).error?.issues[0]?.message.replace(/^expected /, '') ?? 'another value'
}

function problem(place: Place, text: string, hint: string) {
  return errorOf([{ code: 'ENGINE_SETTING', place, path: '', text, hint }])
}

function unknownEngine(name: string, names: readonly string[]) {
  const near = nearestName(name, names)
  return errorOf([
    {
      code: 'ENGINE_UNKNOWN',
      place: { file: '--engine' },
      path: '',
      text: `expected one of ${[...new Set(names)].join(', ')}, got ${name}`,
      hint: near ? `did you mean ${near}?` : 'engines of your own stand in engines.yaml',
    },
  ])
}
