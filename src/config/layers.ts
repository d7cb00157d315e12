import { setValueAt, stageFields } from '../domain/stage/fields.ts'
import type { Origin, StageSide } from '../domain/stage/origin.ts'
import type { Stage, StagePath } from '../domain/stage/schema.ts'
import { type Layer, readLayer } from './layer.ts'
import { locatedOf, nestedAt } from './located.ts'
import { type Place, Problems } from './problems.ts'

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

/** Values of a trial are checked like those of a file. */
export function pushTrial(layers: Layers, trial: TrialSettings): void {
  const problems = new Problems()
  const given = Object.entries(trial.values).map(([path, value]) => {
    const node = locatedOf(value, { file: trial.name })
    return readLayer(nestedAt(path.split('.'), node), '', [], problems)
  })
  problems.refuse()
  for (const layer of given) pushLayer(layers, layer, () => ({ layer: 'trial', name: trial.name }))
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

/** The stage its winning values make, with where they came from. Each value was checked where it was read. */
export function completed(layers: Layers, label: string): CompletedStage {
  const stage: Record<string, unknown> = {}
  const origins = new Map<StagePath, Origin>()
  const ordered = new Map<StagePath, readonly LayerValue[]>()
  for (const path of stageFields().keys()) {
    const winnerFirst = layers.get(path)?.toReversed() ?? []
    const [winner] = winnerFirst
    if (winner === undefined) throw new Error(`${label} ${path}: no layer gives a value`)
    setValueAt(stage, path, structuredClone(winner.value))
    origins.set(path, winner.origin)
    ordered.set(path, winnerFirst)
  }
  return { label, stage: stage as Stage, origins, layers: ordered, findings: [] }
}
