import { join } from 'node:path'
import { UserError } from '../domain/errors.ts'
import { quoted } from './finding.ts'
import { readHeader } from './header.ts'
import { locateWeights, type WeightChoice } from './layout.ts'
import { readShardIndex } from './shard-index.ts'
import type { TensorInfo } from './tensor-info.ts'

/** Weights as one flat list of tensors, however many files hold them. */
export interface WeightSet {
  /** The file or index they were read from. */
  readonly path: string
  readonly files: readonly string[]
  readonly tensors: ReadonlyMap<string, TensorInfo>
  readonly metadata: ReadonlyMap<string, string>
  /** Bytes of all tensors. */
  readonly dataBytes: number
}

/**
 * The weights a path means; only headers are read.
 * Throws UserError WEIGHTS_UNREADABLE, WEIGHTS_NONE, WEIGHTS_AMBIGUOUS or WEIGHTS_INVALID.
 */
export function weightSet(path: string, choice: WeightChoice = 'ema-or-raw'): WeightSet {
  const place = locateWeights(path, choice)
  return place.kind === 'file' ? ofFile(place.path) : ofIndex(place.path, place.folder)
}

function ofFile(path: string): WeightSet {
  const { tensors, metadata, dataBytes } = readHeader(path)
  return { path, files: [path], tensors, metadata, dataBytes }
}

function ofIndex(path: string, folder: string): WeightSet {
  const { fileOf } = readShardIndex(path)
  const files = [...new Set(fileOf.values())]
  const shards = new Map(files.map((file) => [file, readHeader(join(folder, file))]))
  const tensors = new Map<string, TensorInfo>()
  for (const [name, file] of fileOf) {
    const tensor = shards.get(file)?.tensors.get(name)
    if (tensor === undefined) throw mismatch(path, `expected the tensor ${quoted(name)} in ${quoted(file)}, got none`)
    tensors.set(name, tensor)
  }
  for (const [file, { tensors: inside }] of shards) {
    for (const name of inside.keys())
      if (fileOf.get(name) !== file) throw mismatch(path, `${quoted(file)} holds ${quoted(name)}, which the index does not place there`)
  }
  const dataBytes = [...tensors.values()].reduce((sum, { begin, end }) => sum + end - begin, 0)
  const metadata = shards.values().next().value?.metadata ?? new Map()
  return { path, files: files.map((file) => join(folder, file)), tensors, metadata, dataBytes }
}

function mismatch(path: string, message: string): UserError {
  return new UserError('WEIGHTS_INVALID', `${path}: ${message}`, {
    hint: 'index and shards are of different sets: fetch or write them anew',
  })
}

/** Values of a tensor. */
export function parametersOf(shape: readonly number[]): number {
  let product = 1
  for (const length of shape) product *= length
  return product
}
