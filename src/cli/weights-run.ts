import { resolve } from 'node:path'
import { UserError } from '../domain/errors.ts'
import { moduleTree } from '../weights/module-tree.ts'
import { parseNameMap } from '../weights/name-map.ts'
import { diffLines, findingLines, treeLines } from '../weights/text.ts'
import { verifyWeights } from '../weights/verify.ts'
import { diffWeights } from '../weights/weight-diff.ts'
import { weightSet } from '../weights/weight-set.ts'
import { type World, writeJson, writeLines } from './terminal.ts'

export type Use = 'ema' | 'raw' | undefined

export interface ListArguments {
  path: string
  depth: number
  use: Use
  json: boolean
}

export interface VerifyArguments {
  paths: string[]
  use: Use
  json: boolean
}

export interface WeightDiffArguments {
  a: string
  b: string
  map: string[]
  use: Use
  full: boolean
  json: boolean
}

const formatVersion = 1

export function listWeights({ path, depth, use, json }: ListArguments, world: World): void {
  if (!(Number.isInteger(depth) && depth > 0))
    throw new UserError('DEPTH', `--depth: expected a whole number from 1, got ${depth}`, { hint: 'for example --depth 2' })
  const set = weightSet(resolve(world.cwd, path), use)
  const tree = moduleTree(set, depth)
  if (json)
    writeJson(world.stdout, {
      formatVersion,
      path: set.path,
      files: set.files,
      metadata: Object.fromEntries(set.metadata),
      tree,
    })
  else writeLines(world.stdout, treeLines(tree))
}

/** Exit code 1 where anything was found. */
export function verify({ paths, use, json }: VerifyArguments, world: World): void {
  const files = paths.flatMap((path) => verifyWeights(resolve(world.cwd, path), use))
  if (json) writeJson(world.stdout, { formatVersion, files })
  else writeLines(world.stdout, findingLines(files))
  if (files.some(({ findings }) => findings.length > 0)) world.setExitCode(1)
}

/** Exit code 1 where anything differs. */
export function diff({ a, b, map, use, full, json }: WeightDiffArguments, world: World): void {
  const [left, right] = [a, b].map((path) => weightSet(resolve(world.cwd, path), use))
  if (left === undefined || right === undefined) throw new Error('two paths give two sets')
  const found = diffWeights(left, right, map.map(parseNameMap))
  if (json) writeJson(world.stdout, withTags({ formatVersion, a: left.path, b: right.path, ...found }))
  else writeLines(world.stdout, diffLines(found, full))
  if (found.changes.length > 0) world.setExitCode(1)
}

/** JSON has no infinity; a distance from weights that are all zero is one. */
function withTags(value: object): unknown {
  return JSON.parse(JSON.stringify(value, (_, part) => (part === Number.POSITIVE_INFINITY ? { $f: 'inf' } : part)))
}
