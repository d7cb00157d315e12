/*
 * What only Python can say of weights. Apart from listing and comparing, which should not wait for what this needs.
 */

import { existsSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { execa } from 'execa'
import { z } from 'zod'
import { findPython } from '../bridge/environment.ts'
import { UserError } from '../domain/errors.ts'
import { loadPlan } from '../weights/load-plan.ts'
import { planLines } from '../weights/text.ts'
import { weightSet } from '../weights/weight-set.ts'
import { type World, writeJson, writeLines } from './terminal.ts'
import type { Use } from './weights-run.ts'

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

export interface MergeArguments {
  base: string
  adapter: string
  out: string
  use: Use
  json: boolean
}

const formatVersion = 1

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

export async function merge({ base, adapter, out, use, json }: MergeArguments, world: World): Promise<void> {
  const [file = ''] = weightSet(resolve(world.cwd, base), use).files
  const question = ['merge', dirname(file), resolve(world.cwd, adapter), resolve(world.cwd, out)]
  const answer = z.strictObject({ changed: z.int(), tensors: z.int(), files: z.array(z.string()) }).parse(await askPython(question, world))
  if (json) writeJson(world.stdout, { formatVersion, ...answer })
  else writeLines(world.stdout, [`${answer.changed} of ${answer.tensors} tensors changed`, ...answer.files.map((path) => `wrote ${path}`)])
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
