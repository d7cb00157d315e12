import { nearestName } from '../domain/nearest.ts'
import { shown } from './expectation.ts'
import { type Layer, readLayer } from './layer.ts'
import { type Located, type LocatedEntry, type LocatedRecord, plainValue } from './located.ts'
import { errorOf, type Place, Problems } from './problems.ts'

/** The version of recipes and presets this program reads. */
export const formatVersion = 1

/** A text in a file with its place. */
export interface Named {
  readonly text: string
  readonly place: Place
  /** Where it stands: `stages[1].extends`. */
  readonly path: string
}

/** A stage as its file writes it, before layers. */
export interface StageSource {
  readonly name: string
  /** Where the stage stands in its file: `stages[1]`. */
  readonly written: string
  readonly place: Place
  readonly presets: readonly Named[]
  readonly extends: Named | undefined
  readonly provenance: Readonly<Record<string, unknown>>
  readonly layer: Layer
}

export interface RecipeSource {
  readonly file: string
  readonly name: string
  readonly notes: string
  readonly provenance: Readonly<Record<string, unknown>>
  readonly presets: readonly Named[]
  readonly stages: readonly StageSource[]
}

const recipeKeys = ['formatVersion', 'name', 'notes', 'provenance', 'presets', 'stages']
const presetKeys = ['formatVersion', 'name', 'notes', 'preset']
const stageKeys = ['presets', 'extends', 'provenance']

function recordOf(node: Located, what: string): LocatedRecord {
  if (node.kind === 'record') return node
  if (node.kind === 'scalar' && node.value === null) {
    throw errorOf([{ code: 'CONFIG_YAML', place: node.place, path: '', text: `expected a ${what}, got an empty file` }])
  }
  throw errorOf([
    { code: 'CONFIG_INVALID', place: node.place, path: '', text: `expected a ${what} (names and values), got ${shown(plainValue(node))}` },
  ])
}

/** A recipe from its YAML. Raises UserErrors CONFIG_… that name everything wrong with it. */
export function recipeOf(node: Located, file: string): RecipeSource {
  const record = recordOf(node, 'recipe')
  checkVersion(record, 'recipe')
  const problems = new Problems()
  refuseUnknown(record, recipeKeys, 'recipe', problems)
  const stages = stagesOf(record, problems)
  const recipe = {
    file,
    name: requiredText(record, 'name', problems),
    notes: optionalText(record, 'notes', problems)?.text ?? '',
    provenance: freeRecord(record, 'provenance', 'provenance', problems),
    presets: textList(record, 'presets', 'presets', problems),
    stages,
  }
  problems.refuse()
  return recipe
}

/** The settings of a preset from its YAML. */
export function presetOf(node: Located, file: string): Layer {
  const record = recordOf(node, 'preset')
  checkVersion(record, 'preset')
  const problems = new Problems()
  refuseUnknown(record, presetKeys, 'preset', problems)
  const body = record.entries.get('preset')
  if (body?.value.kind !== 'record') {
    problems.add(invalid(body?.value.place ?? { file, line: 1, column: 1 }, 'preset', 'expected settings of a stage', body?.value))
  }
  const layer = body?.value.kind === 'record' ? readLayer(body.value, 'preset', [], problems) : new Map()
  const name = layer.get('name')
  if (name)
    problems.add({
      code: 'CONFIG_INVALID',
      place: name.place,
      path: 'preset.name',
      text: 'expected no name, since a preset is no stage, got one',
    })
  problems.refuse()
  return layer
}

/** Refuses another format before anything else is looked at, since its keys may mean something else. */
function checkVersion(record: LocatedRecord, what: string): void {
  const entry = record.entries.get('formatVersion')
  const version = entry && plainValue(entry.value)
  if (version === formatVersion) return
  const place = entry?.value.place ?? record.place
  const newer = typeof version === 'number' && version > formatVersion
  const hint = newer ? 'this file was written for a newer Stagewright: update it' : `write formatVersion: ${formatVersion}`
  const text = `expected ${formatVersion}, the format of ${what}s this program reads, got ${shown(version)}`
  throw errorOf([{ code: 'CONFIG_VERSION', place, path: 'formatVersion', text, hint }])
}

function refuseUnknown(record: LocatedRecord, known: readonly string[], what: string, problems: Problems): void {
  for (const [name, { place }] of record.entries) {
    if (known.includes(name)) continue
    const near = nearestName(name, known)
    const hint = near ? `did you mean \`${near}\`?` : `a ${what} has ${known.join(', ')}`
    problems.add({
      code: 'CONFIG_UNKNOWN_KEY',
      place,
      path: name,
      text: `expected a key of a ${what}, got the unknown key \`${name}\``,
      hint,
    })
  }
}

function stagesOf(record: LocatedRecord, problems: Problems): StageSource[] {
  const entry = record.entries.get('stages')
  if (entry?.value.kind !== 'list' || entry.value.items.length === 0) {
    problems.add(invalid(entry?.value.place ?? record.place, 'stages', 'expected a list of at least one stage', entry?.value))
    return []
  }
  const stages = entry.value.items.map((node, place) => stageOf(node, `stages[${place}]`, problems))
  refuseTwins(stages, problems)
  return stages
}

function stageOf(node: Located, written: string, problems: Problems): StageSource {
  const empty = { name: '', written, place: node.place, presets: [], extends: undefined, provenance: {}, layer: new Map() }
  if (node.kind !== 'record') {
    problems.add(invalid(node.place, written, 'expected a stage (names and values)', node))
    return empty
  }
  const layer = readLayer(node, written, stageKeys, problems)
  const name = layer.get('name')
  if (!name && !node.entries.has('name'))
    problems.add({ ...invalid(node.place, `${written}.name`, 'expected a name', undefined), hint: 'every stage needs one' })
  return {
    ...empty,
    name: String(name?.value ?? ''),
    layer,
    presets: textList(node, 'presets', `${written}.presets`, problems),
    extends: optionalText(node, 'extends', problems, `${written}.extends`),
    provenance: freeRecord(node, 'provenance', `${written}.provenance`, problems),
  }
}

function refuseTwins(stages: readonly StageSource[], problems: Problems): void {
  for (const [place, stage] of stages.entries()) {
    const twin = stages.slice(0, place).find(({ name }) => name === stage.name && name !== '')
    if (!twin) continue
    const where = stage.layer.get('name')?.place ?? stage.place
    problems.add({
      code: 'CONFIG_DUPLICATE',
      place: where,
      path: `${stage.written}.name`,
      text: `expected each name once, got ${stage.name} again`,
      hint: `${twin.written} has it already`,
    })
  }
}

function invalid(place: Place, path: string, expected: string, got: Located | undefined) {
  return { code: 'CONFIG_INVALID', place, path, text: `${expected}, got ${shown(got && plainValue(got))}` }
}

function requiredText(record: LocatedRecord, name: string, problems: Problems): string {
  const found = optionalText(record, name, problems)
  if (!found && !record.entries.has(name)) problems.add(invalid(record.place, name, 'expected text', undefined))
  return found?.text ?? ''
}

function optionalText(record: LocatedRecord, name: string, problems: Problems, path = name): Named | undefined {
  const entry = record.entries.get(name)
  return entry && named(entry.value, path, problems)
}

function named(node: Located, path: string, problems: Problems): Named | undefined {
  if (node.kind === 'scalar' && typeof node.value === 'string' && node.value !== '') return { text: node.value, place: node.place, path }
  problems.add(invalid(node.place, path, 'expected text that is not empty', node))
  return undefined
}

function textList(record: LocatedRecord, name: string, path: string, problems: Problems): Named[] {
  const entry: LocatedEntry | undefined = record.entries.get(name)
  if (!entry) return []
  if (entry.value.kind !== 'list') {
    problems.add({ ...invalid(entry.value.place, path, 'expected a list of files', entry.value), hint: `write ${name}: [FILE.yaml]` })
    return []
  }
  return entry.value.items.map((item, place) => named(item, `${path}[${place}]`, problems)).filter((item) => item !== undefined)
}

function freeRecord(record: LocatedRecord, name: string, path: string, problems: Problems): Record<string, unknown> {
  const entry = record.entries.get(name)
  if (!entry) return {}
  if (entry.value.kind !== 'record') problems.add(invalid(entry.value.place, path, 'expected names and values', entry.value))
  return plainValue(entry.value) as Record<string, unknown>
}
