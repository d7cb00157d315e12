import { resolve } from 'node:path'
import { UserError } from '../domain/errors.ts'
import { moduleTree } from '../weights/module-tree.ts'
import { findingLines, treeLines } from '../weights/text.ts'
import { verifyWeights } from '../weights/verify.ts'
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
