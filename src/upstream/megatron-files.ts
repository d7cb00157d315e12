import { valueAt } from '../domain/stage/fields.ts'
import type { Stage, StagePath } from '../domain/stage/schema.ts'
import { dataPairs, modelPairs } from './megatron.ts'

/*
 * The model's and the data's file of a v1.5 command. An imported stage kept every value of both, so that they are written back whole;
 * what has been changed since, or what another stage says, is written over them.
 */

type Json = { [name: string]: unknown }

/** The files a v1.5 command reads, by the path it names them under. */
export function megatronFiles(stage: Stage): Map<string, string> {
  return new Map([
    [pathOf(stage, 'mm-model', './model.json'), textOf(stage, 'model.', modelPairs, modelLayers(stage))],
    [pathOf(stage, 'mm-data', './data.json'), textOf(stage, 'data.', dataPairs, [])],
  ])
}

function pathOf({ upstream }: Stage, flag: string, otherwise: string): string {
  const named = upstream[flag] ?? upstream[flag.replace('-', '_')]
  return typeof named === 'string' ? named : otherwise
}

/** The model's depth, in which the file's own form is kept: a list of the U's levels, or one number. */
function modelLayers({ model }: Stage): [string, unknown][] {
  if (model.stageLayers === null) return [['predictor.num_layers', model.layers]]
  return [
    ['predictor.num_layers', model.stageLayers],
    ['predictor.sparse_n', model.stageSparseN],
    ['predictor.sparse1d', model.sparse],
  ]
}

function textOf(
  stage: Stage,
  prefix: string,
  pairs: readonly (readonly [string, StagePath])[],
  more: readonly [string, unknown][],
): string {
  const kept = Object.entries(stage.upstream).flatMap(([name, value]): [string, unknown][] =>
    name.startsWith(prefix) ? [[name.slice(prefix.length), value]] : [],
  )
  const known = new Set(kept.map(([name]) => name))
  const isImported = kept.length > 0
  const settings = pairs.map(([name, path]): [string, unknown] => [name, valueAt(stage, path)])
  // An imported file says nothing of a setting it left out; a stage of ours says all it has.
  const said = [...settings, ...more].filter(([name, value]) => (isImported ? known.has(name) : value !== null))
  const root: Json = {}
  for (const [name, value] of [...kept, ...said]) setAt(root, stepsOf(name), value)
  return `${JSON.stringify(root, null, 2)}\n`
}

/** `a.b[0].c` as its steps. A name with other characters stays one step. */
function stepsOf(name: string): (string | number)[] {
  return name.split('.').flatMap((part) => {
    const [, base = part, index] = /^(.*?)\[(\d+)\]$/.exec(part) ?? []
    if (index === undefined) return [part]
    return base === '' ? [Number(index)] : [base, Number(index)]
  })
}

function setAt(target: Json | unknown[], [first = '', ...rest]: readonly (string | number)[], value: unknown): void {
  if (rest.length === 0) {
    Reflect.set(target, first, value)
    return
  }
  const inner = Reflect.get(target, first) ?? (typeof rest[0] === 'number' ? [] : {})
  Reflect.set(target, first, inner)
  setAt(inner as Json, rest, value)
}
