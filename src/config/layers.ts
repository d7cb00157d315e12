import { stageFields } from '../domain/stage/fields.ts'
import type { Origin, StageSide } from '../domain/stage/origin.ts'
import { type Stage, type StagePath, stageSchema } from '../domain/stage/schema.ts'
import type { Layer } from './layer.ts'
import { errorOf, type Place, Problems } from './problems.ts'

/** A value one layer gave a field. */
export interface LayerValue {
  readonly value: unknown
  readonly origin: Origin
  /** The stage it was inherited from, as `name` or `file#name`. */
  readonly from?: string
}

/** Settings of one point of a sweep. */
export interface TrialSettings {
  readonly name: string
  readonly values: Readonly<Record<StagePath, unknown>>
}

/** Every value given to a field, weakest first. */
export type Layers = Map<StagePath, LayerValue[]>

export function push(layers: Layers, path: StagePath, value: LayerValue): void {
  const values = layers.get(path)
  if (values) values.push(value)
  else layers.set(path, [value])
}

export function pushAll(layers: Layers, given: Layers): void {
  for (const [path, values] of given) for (const value of values) push(layers, path, value)
}

export function pushLayer(layers: Layers, layer: Layer, origin: (place: Place) => Origin): void {
  for (const [path, { value, place }] of layer) push(layers, path, { value, origin: origin(place) })
}

export function pushTrial(layers: Layers, trial: TrialSettings): void {
  for (const [path, value] of Object.entries(trial.values)) {
    if (!stageFields().has(path))
      throw errorOf([{ code: 'CONFIG_UNKNOWN_KEY', place: { file: trial.name }, path, text: 'expected a setting, got an unknown path' }])
    push(layers, path, { value, origin: { layer: 'trial', name: trial.name } })
  }
}

export function defaultLayers(): Layers {
  const layers: Layers = new Map()
  for (const field of stageFields().values()) {
    if (field.default !== undefined) layers.set(field.path, [{ value: field.default, origin: { layer: 'schema default' } }])
  }
  return layers
}

/** A stage with every value that was given to its fields, the winning one first. */
export interface CompletedStage extends StageSide {
  readonly layers: ReadonlyMap<StagePath, readonly LayerValue[]>
}

/** The stage its winning values make, with where they came from. */
export function completed(layers: Layers, label: string): CompletedStage {
  const input: Record<string, unknown> = {}
  const origins = new Map<StagePath, Origin>()
  const ordered = new Map<StagePath, readonly LayerValue[]>()
  for (const [path, values] of layers) {
    const winnerFirst = values.toReversed()
    const [winner] = winnerFirst
    if (winner === undefined) continue
    setAt(input, path.split('.'), winner.value)
    origins.set(path, winner.origin)
    ordered.set(path, winnerFirst)
  }
  return { label, stage: stageFrom(input, label), origins, layers: ordered, findings: [] }
}

/** Values from a trial were not checked before; those of files were. */
function stageFrom(input: unknown, label: string): Stage {
  const result = stageSchema.safeParse(input)
  if (result.success) return result.data
  const problems = new Problems()
  for (const issue of result.error.issues) {
    problems.add({ code: 'CONFIG_INVALID', place: { file: label }, path: issue.path.map(String).join('.'), text: issue.message })
  }
  problems.refuse()
  throw result.error
}

function setAt(target: Record<string, unknown>, [name = '', ...rest]: readonly string[], value: unknown): void {
  if (rest.length === 0) {
    target[name] = value
    return
  }
  const next = (target[name] ?? {}) as Record<string, unknown>
  target[name] = next
  setAt(next, rest, value)
}
