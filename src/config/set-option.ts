import { nearestName } from '../domain/nearest.ts'
import { stageFields } from '../domain/stage/fields.ts'
import { type Layer, readLayer } from './layer.ts'
import { type Located, locatedOf, nestedAt, plainValue } from './located.ts'
import { errorOf, type Place, Problems } from './problems.ts'
import { readYaml } from './yaml.ts'

/** One `--set` of the command line, `path=value` for every stage that is asked for or `STAGE:path=value` for one. */
export interface SetOption {
  readonly stage: string | undefined
  readonly layer: Layer
}

/**
 * Reads `--set` options: the value is YAML (`1e-4`, `[all, -norms]`, `{ frames: 29 }`). Those that name no stage are for `only`, or
 * for every one. Raises UserError CONFIG_SET for a text of another form, and the errors of a file for its value.
 */
export function readSetOptions(options: readonly string[], only?: string): SetOption[] {
  return options.map((option) => readSetOption(option, only))
}

/** Whether a `--set` option is for one stage, which it names. */
export function namesStage(option: string): boolean {
  return formOf(option)[1] !== undefined
}

function formOf(option: string): readonly (string | undefined)[] {
  return /^(?:([\w.-]+):)?([^=:\s]+)=([\s\S]*)$/.exec(option) ?? []
}

function readSetOption(option: string, only: string | undefined): SetOption {
  const place: Place = { file: `--set ${option.length > 60 ? `${option.slice(0, 57)}…` : option}` }
  const [, stage, path, value] = formOf(option)
  if (path === undefined || value === undefined)
    throw refusal(place, `expected path=value, got ${option}`, 'for example --set learningRate=1e-5')
  if (path === 'name') throw refusal(place, 'expected a setting, got the name of the stage', 'rename the stage in its file')
  refuseInsideField(path.split('.'), place)
  const problems = new Problems()
  const layer = readLayer(nestedAt(path.split('.'), optionValue(value, place)), '', [], problems)
  problems.refuse()
  return { stage: stage ?? only, layer }
}

/** Columns inside an option mean little: the option itself is the place. */
function optionValue(text: string, place: Place): Located {
  return locatedOf(text.trim() === '' ? null : plainValue(readYaml(text, place.file)), place)
}

/** Lists and records are set as a whole: `objective.maskRatios.i2v` is no path. */
function refuseInsideField(path: readonly string[], place: Place): void {
  const field = stageFields().get(path.slice(0, -1).join('.'))
  if (field) throw refusal(place, `expected a whole value for ${field.path}, got a path inside it`, `write --set ${field.path}=VALUE`)
}

function refusal(place: Place, text: string, hint: string) {
  return errorOf([{ code: 'CONFIG_SET', place, path: '', text, hint }])
}

/** Refuses a stage name no stage has. */
export function refuseUnknownStages(options: readonly SetOption[], names: readonly string[]): void {
  for (const { stage } of options) {
    if (stage === undefined || names.includes(stage)) continue
    const near = nearestName(stage, names)
    throw refusal(
      { file: '--set' },
      `expected a stage of the recipe (${names.join(', ')}), got ${stage}`,
      near ? `did you mean ${near}?` : 'write STAGE:path=value',
    )
  }
}
