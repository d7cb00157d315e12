/*
 * Two sets of weights side by side: first headers, then bytes, numbers only where bytes differ.
 */

import { decodableBytes, valuesOf } from './decode.ts'
import { deepestModule } from './module-tree.ts'
import { mappedNames, type NameMap } from './name-map.ts'
import { PairReader } from './pair-reader.ts'
import type { TensorInfo } from './tensor-info.ts'
import { parametersOf, type WeightSet } from './weight-set.ts'

/** How far the values of b are from those of a. */
export interface Distance {
  /** Largest |b − a| of the values that are numbers on both sides. */
  readonly maxAbs: number
  /** ‖b − a‖₂ / ‖a‖₂ over the same values; infinite where a is zero and b is not. */
  readonly relativeL2: number
  /** Values that differ. Not-a-number equals not-a-number. */
  readonly changed: number
  /** Places where one side, or both, is infinite or not a number and the other is something else. */
  readonly nonFinite: number
}

export type TensorChange =
  | { readonly kind: 'only-a' | 'only-b'; readonly name: string; readonly parameters: number }
  | {
      readonly kind: 'reshaped'
      readonly name: string
      readonly before: readonly number[]
      readonly after: readonly number[]
      readonly parameters: number
    }
  | {
      readonly kind: 'changed'
      readonly name: string
      readonly dtypes: readonly [string, string]
      readonly parameters: number
      readonly distance: Distance | undefined
    }

/** What happened below one module: its own tensors and those of its children. */
export interface ModuleTotal {
  readonly module: string
  readonly tensors: number
  readonly parameters: number
  readonly changedTensors: number
  readonly changedParameters: number
  readonly distance: Distance
}

export interface WeightDiff {
  readonly same: number
  readonly changes: readonly TensorChange[]
  /** Every module, the root as ''. */
  readonly modules: readonly ModuleTotal[]
}

interface Sums {
  maxAbs: number
  squaredDifference: number
  squaredA: number
  changed: number
  nonFinite: number
}

/**
 * What differs between two sets of weights. Names of `a` are mapped before they are compared; all names in the answer are those of `b` where both have it.
 * A tensor of another dtype with equal values counts as changed with a distance of zero. Throws UserError MAP_COLLISION, WEIGHTS_CUT.
 */
export function diffWeights(a: WeightSet, b: WeightSet, map: NameMap = []): WeightDiff {
  const before = mappedNames(a.tensors, map)
  const changes: TensorChange[] = []
  const totals = new Totals()
  let same = 0
  const reader = new PairReader()
  try {
    for (const [name, right] of b.tensors) {
      const left = before.get(name)
      if (left === undefined) changes.push({ kind: 'only-b', name, parameters: parametersOf(right.shape) })
      else {
        const { change, sums } = compared(name, left, right, reader)
        if (change === undefined) same += 1
        else changes.push(change)
        totals.add(name, parametersOf(right.shape), change !== undefined, sums)
      }
    }
  } finally {
    reader.close()
  }
  for (const [name, left] of before) if (!b.tensors.has(name)) changes.push({ kind: 'only-a', name, parameters: parametersOf(left.shape) })
  return { same, changes, modules: totals.list() }
}

function compared(
  name: string,
  a: TensorInfo,
  b: TensorInfo,
  reader: PairReader,
): { change: TensorChange | undefined; sums: Sums | undefined } {
  const parameters = parametersOf(b.shape)
  if (a.shape.length !== b.shape.length || a.shape.some((length, place) => length !== b.shape[place])) {
    return { change: { kind: 'reshaped', name, before: a.shape, after: b.shape, parameters }, sums: undefined }
  }
  if (a.dtype === b.dtype && reader.sameBytes(a, b)) return { change: undefined, sums: undefined }
  const sums = sumsOf(a, b, parameters, reader)
  return { change: { kind: 'changed', name, dtypes: [a.dtype, b.dtype], parameters, distance: sums && distanceOf(sums) }, sums }
}

function sumsOf(a: TensorInfo, b: TensorInfo, values: number, reader: PairReader): Sums | undefined {
  const [bytesA, bytesB] = [decodableBytes(a.dtype), decodableBytes(b.dtype)]
  if (bytesA === undefined || bytesB === undefined) return undefined
  const sums: Sums = { maxAbs: 0, squaredDifference: 0, squaredA: 0, changed: 0, nonFinite: 0 }
  for (const block of reader.blocks(a, b, values, { a: bytesA, b: bytesB })) {
    const [left, right] = [valuesOf(a.dtype, block.a), valuesOf(b.dtype, block.b)]
    for (let place = 0; place < block.count; place += 1) addValue(sums, left(place), right(place))
  }
  return sums
}

function addValue(sums: Sums, a: number, b: number): void {
  const difference = b - a
  if (Number.isFinite(difference)) {
    sums.squaredA += a * a
    if (difference === 0) return
    sums.changed += 1
    sums.squaredDifference += difference * difference
    sums.maxAbs = Math.max(sums.maxAbs, Math.abs(difference))
  } else if (!Object.is(a, b)) {
    sums.changed += 1
    sums.nonFinite += 1
  }
}

function distanceOf({ maxAbs, squaredDifference, squaredA, changed, nonFinite }: Sums): Distance {
  const relativeL2 = squaredDifference === 0 ? 0 : Math.sqrt(squaredDifference) / Math.sqrt(squaredA)
  return { maxAbs, relativeL2, changed, nonFinite }
}

interface RunningTotal {
  tensors: number
  parameters: number
  changedTensors: number
  changedParameters: number
  readonly sums: Sums
}

/** Totals of every module on the way from the root to a tensor. ‖a‖ counts changed tensors alone: the same bytes are not decoded. */
class Totals {
  readonly #modules = new Map<string, RunningTotal>()

  add(name: string, parameters: number, isChanged: boolean, sums: Sums | undefined): void {
    for (const module of modulesAbove(name)) {
      const total = this.#modules.get(module) ?? newTotal()
      this.#modules.set(module, total)
      total.tensors += 1
      total.parameters += parameters
      if (isChanged) {
        total.changedTensors += 1
        total.changedParameters += parameters
      }
      if (sums !== undefined) merge(total.sums, sums)
    }
  }

  list(): ModuleTotal[] {
    return [...this.#modules].map(([module, { sums, ...counts }]) => ({ module, ...counts, distance: distanceOf(sums) }))
  }
}

function newTotal(): RunningTotal {
  const sums: Sums = { maxAbs: 0, squaredDifference: 0, squaredA: 0, changed: 0, nonFinite: 0 }
  return { tensors: 0, parameters: 0, changedTensors: 0, changedParameters: 0, sums }
}

function merge(into: Sums, from: Sums): void {
  into.maxAbs = Math.max(into.maxAbs, from.maxAbs)
  into.squaredDifference += from.squaredDifference
  into.squaredA += from.squaredA
  into.changed += from.changed
  into.nonFinite += from.nonFinite
}

/** 'a.b.weight' lies in '', 'a' and 'a.b'; what lies deeper than a tree goes is not told apart. */
export function modulesAbove(name: string): string[] {
  const parts = name.split('.', deepestModule + 1).slice(0, -1)
  return ['', ...parts.map((_, place) => parts.slice(0, place + 1).join('.'))]
}
