import { stageFields, valueAt } from '../domain/stage/fields.ts'
import type { StageSide } from '../domain/stage/origin.ts'
import { completed, type Layers, push, pushLayer } from './layers.ts'
import { readSetOptions, refuseUnknownStages } from './set-option.ts'

/** A complete stage from anywhere with `--set` options on top. Raises the errors of the options. */
export function withSetOptions(side: StageSide, options: readonly string[]): StageSide {
  const set = readSetOptions(options)
  refuseUnknownStages(set, [side.stage.name])
  const layers: Layers = new Map()
  for (const { path } of stageFields().values()) {
    push(layers, path, { value: valueAt(side.stage, path), origin: side.origins.get(path) ?? { layer: 'schema default' } })
  }
  for (const { layer } of set) pushLayer(layers, layer, (place) => ({ layer: 'command line', name: place.file }))
  const { stage, origins } = completed(layers, side.label)
  const replaced = new Set(set.flatMap(({ layer }) => [...layer.keys()]))
  // What was found about a value that stands no more.
  const findings = side.findings.filter(({ where }) => !('path' in where && replaced.has(where.path)))
  return { ...side, stage, origins, findings }
}
