/*
 * Where weights lie: one file, shards with an index, a folder in diffusers layout, a checkpoint or a run.
 */

import { readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { UserError } from '../domain/errors.ts'

/** Which of a checkpoint's weights: the moving average, the raw ones, or the average where there is one. */
export type WeightChoice = 'ema' | 'raw' | 'ema-or-raw'

export type WeightPlace =
  | { readonly kind: 'file'; readonly path: string }
  | { readonly kind: 'index'; readonly path: string; readonly folder: string }

const indexEnding = '.safetensors.index.json'
const knownNames = ['diffusion_pytorch_model', 'model', 'weights']
const foldersOf: Readonly<Record<WeightChoice, readonly string[]>> = {
  ema: ['model_ema'],
  raw: ['model'],
  'ema-or-raw': ['model_ema', 'model'],
}
const filesOf: Readonly<Record<WeightChoice, readonly string[]>> = {
  ema: ['ema.safetensors'],
  raw: ['weights.safetensors'],
  'ema-or-raw': ['ema.safetensors', 'weights.safetensors'],
}

/** The file or the index that a path means. Throws UserError WEIGHTS_UNREADABLE, WEIGHTS_NONE or WEIGHTS_AMBIGUOUS. */
export function locateWeights(path: string, choice: WeightChoice = 'ema-or-raw'): WeightPlace {
  if (!isFolder(path)) return path.endsWith('.index.json') ? { kind: 'index', path, folder: join(path, '..') } : { kind: 'file', path }
  const entries = new Set(namesIn(path))
  if (entries.has('checkpoints') && isFolder(join(path, 'checkpoints')))
    return locateWeights(latestCheckpoint(join(path, 'checkpoints')), choice)
  const inside = checkpointPart(path, entries, choice)
  return inside ?? folderWeights(path, entries)
}

function isFolder(path: string): boolean {
  try {
    return statSync(path).isDirectory()
  } catch (cause) {
    throw unreadable(path, cause)
  }
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder)
  } catch (cause) {
    throw unreadable(folder, cause)
  }
}

function unreadable(path: string, cause: unknown): UserError {
  return new UserError('WEIGHTS_UNREADABLE', `${path}: cannot be read (${(cause as NodeJS.ErrnoException).code})`, {
    hint: 'name a .safetensors file, an index, or a folder that holds one',
    cause,
  })
}

function latestCheckpoint(folder: string): string {
  const steps = namesIn(folder).filter((name) => /^step-\d+$/.test(name))
  const last = steps.sort((a, b) => Number(a.slice(5)) - Number(b.slice(5))).at(-1)
  if (last !== undefined) return join(folder, last)
  throw new UserError('WEIGHTS_NONE', `${folder}: expected a checkpoint, got none`, { hint: 'the run has not written one yet' })
}

function checkpointPart(path: string, entries: ReadonlySet<string>, choice: WeightChoice): WeightPlace | undefined {
  const folder = foldersOf[choice].find((name) => entries.has(name) && isFolder(join(path, name)))
  if (folder !== undefined) return folderWeights(join(path, folder), new Set(namesIn(join(path, folder))))
  const file = filesOf[choice].find((name) => entries.has(name))
  if (file !== undefined) return { kind: 'file', path: join(path, file) }
  if (choice === 'ema' && (entries.has('model') || entries.has('weights.safetensors'))) {
    throw new UserError('WEIGHTS_NONE', `${path}: expected a moving average, got raw weights alone`, { hint: 'ask for the raw weights' })
  }
  return undefined
}

function folderWeights(folder: string, entries: ReadonlySet<string>): WeightPlace {
  const indexes = [...entries].filter((name) => name.endsWith(indexEnding)).sort()
  const files = [...entries].filter((name) => name.endsWith('.safetensors')).sort()
  const index = preferred(indexes, indexEnding)
  if (index !== undefined) return { kind: 'index', path: join(folder, index), folder }
  const file = preferred(files, '.safetensors')
  if (file !== undefined) return { kind: 'file', path: join(folder, file) }
  if (files.length > 0) {
    throw new UserError('WEIGHTS_AMBIGUOUS', `${folder}: expected one .safetensors file or an index, got ${files.length} files`, {
      hint: `name one of ${files.slice(0, 4).join(', ')}`,
    })
  }
  const pickles = [...entries].filter((name) => /\.(ckpt|pt|pth|bin)$/.test(name))
  throw new UserError('WEIGHTS_NONE', `${folder}: expected safetensors weights, got none`, {
    hint: pickles[0] ? `convert ${pickles[0]} first: stagewright weights convert` : 'name a folder with weights in it',
  })
}

function preferred(names: readonly string[], ending: string): string | undefined {
  const known = knownNames.map((name) => name + ending).find((name) => names.includes(name))
  return known ?? (names.length === 1 ? names[0] : undefined)
}
