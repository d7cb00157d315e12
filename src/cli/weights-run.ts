import { existsSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { execa } from 'execa'
import { z } from 'zod'
import { findPython } from '../bridge/environment.ts'
import { UserError } from '../domain/errors.ts'
import { loadPlan } from '../weights/load-plan.ts'
import { moduleTree } from '../weights/module-tree.ts'
import { parseNameMap } from '../weights/name-map.ts'
import { diffLines, findingLines, planLines, treeLines } from '../weights/text.ts'
import { verifyWeights } from '../weights/verify.ts'
import { diffWeights } from '../weights/weight-diff.ts'
import { weightSet } from '../weights/weight-set.ts'
import { type World, writeJson, writeLines } from './terminal.ts'

type Use = 'ema' | 'raw' | undefined

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

export interface WeightCheckArguments {
  folder: string
  accept: string[]
  use: Use
  full: boolean
  json: boolean
}

export interface ConvertArguments {
  file: string
  out: string
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

/** Exit code 1 where a tensor is neither exact nor accepted. */
export async function check({ folder, accept, use, full, json }: WeightCheckArguments, world: World): Promise<void> {
  const set = weightSet(resolve(world.cwd, folder), use)
  const { shapes, constants } = z
    .strictObject({ shapes: z.record(z.string(), z.array(z.int())), constants: z.array(z.string()) })
    .parse(await askPython(['check', dirname(set.path)], world))
  const free = new Set(constants)
  const wanted = new Map(Object.entries(shapes).filter(([name]) => !free.has(name)))
  const available = new Map([...set.tensors].filter(([name]) => !free.has(name)))
  const plan = loadPlan(wanted, available, accept)
  if (json) writeJson(world.stdout, { formatVersion, path: set.path, ...plan })
  else writeLines(world.stdout, planLines(plan, full))
  if (plan.refused.length > 0) world.setExitCode(1)
}

export async function convert({ file, out }: ConvertArguments, world: World): Promise<void> {
  const answer = z
    .strictObject({ taken: z.string(), tensors: z.int(), files: z.array(z.string()) })
    .parse(await askPython(['convert', resolve(world.cwd, file), resolve(world.cwd, out)], world))
  writeLines(world.stdout, [`${answer.tensors} tensors of ${answer.taken}`, ...answer.files.map((path) => `wrote ${path}`)])
}

const pythonError = z.object({ error: z.object({ code: z.string(), message: z.string(), hint: z.string() }) })

/** One question to `osplan.weights_tool`. What it calls a person's mistake is thrown as UserError. */
async function askPython(question: readonly string[], world: World): Promise<unknown> {
  const { python, pythonPath } = findPython(packageRoot(), world.env)
  const { stdout, stderr, exitCode } = await execa(python, ['-m', 'osplan.weights_tool', ...question], { cwd: pythonPath, reject: false })
  const last = stdout.trim().split('\n').at(-1) ?? ''
  if (exitCode !== 0 && exitCode !== 2) throw new Error(`osplan.weights_tool ended with ${exitCode}:\n${stderr}`)
  const answer: unknown = JSON.parse(last)
  const mistake = pythonError.safeParse(answer)
  if (!mistake.success) return answer
  const { code, message, hint } = mistake.data.error
  throw new UserError(code, message, { hint })
}

/** The package's own folder, from the sources or from the bundle. */
function packageRoot(): string {
  let folder = import.meta.dirname
  while (!existsSync(join(folder, 'package.json'))) folder = dirname(folder)
  return folder
}
