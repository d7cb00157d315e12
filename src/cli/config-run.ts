import { resolve } from 'node:path'
import { stageYaml, why, whyLines } from '../config/explain.ts'
import { configJsonSchema, presetJsonSchema } from '../config/json-schema.ts'
import { ConfigError } from '../config/problems.ts'
import { checkFile } from '../config/recipe.ts'
import type { ResolvedStage } from '../config/resolver.ts'
import { readConfigFile } from '../config/source.ts'
import { UserError } from '../domain/errors.ts'
import { resolveRecipe } from '../runs/addresses.ts'
import { paintFor, printable, type World, writeJson, writeLines } from './terminal.ts'

const formatVersion = 1

export interface ShowArguments {
  recipe: string
  json: boolean
  origins: boolean
  set: string[]
}

export interface WhyArguments {
  recipe: string
  key: string
  json: boolean
  set: string[]
}

export interface CheckArguments {
  files: string[]
  json: boolean
}

/** Prints every setting of one stage, or of each stage of a recipe. */
export function showConfig({ recipe: address, json, origins, set }: ShowArguments, world: World): void {
  const { recipe, stages } = resolveRecipe(address, { cwd: world.cwd, set })
  if (json) {
    const { file, name } = recipe
    writeJson(world.stdout, {
      formatVersion,
      recipe: { file, name, notes: recipe.notes, provenance: recipe.provenance },
      stages: stages.map(stageJson),
    })
    return
  }
  const parts = stages.map((stage) => `# ${printable(stage.label)}\n${stageYaml(stage, { origins })}`)
  world.stdout.write(parts.join('---\n'))
}

function stageJson({ label, stage, origins, parentName, provenance }: ResolvedStage) {
  return { label, name: stage.name, parentName, provenance, stage, origins: Object.fromEntries(origins) }
}

/** Prints why a setting, or each setting of a section, has its value. */
export function explainConfig({ recipe: address, key, json, set }: WhyArguments, world: World): void {
  const { stages } = resolveRecipe(address, { cwd: world.cwd, set })
  const [stage, ...others] = stages
  if (stage === undefined || others.length > 0) {
    throw new UserError('ADDRESS_STAGE', `${address}: expected one stage, got ${stages.length}`, {
      hint: `write ${address}#${stage?.stage.name}`,
    })
  }
  const explanations = why(stage, key)
  if (json) writeJson(world.stdout, { formatVersion, label: stage.label, settings: explanations })
  else writeLines(world.stdout, explanations.flatMap(whyLines).map(printable))
}

export function printSchema({ preset }: { preset: boolean }, world: World): void {
  writeJson(world.stdout, preset ? presetJsonSchema() : configJsonSchema())
}

/** Checks recipes and says what is wrong with each. Sets the exit code: 0 all hold, 1 a problem, 2 a file that cannot be read. */
export function checkConfig({ files, json }: CheckArguments, world: World): void {
  const results = files.map((file) => checked(file, world))
  const unreadable = results.some(({ problems }) => problems.some(({ code }) => code === 'CONFIG_FILE'))
  world.setExitCode(unreadable ? 2 : results.every(({ problems }) => problems.length === 0) ? 0 : 1)
  if (json) {
    writeJson(world.stdout, { formatVersion, files: results })
    return
  }
  const paint = paintFor(world.stdout, world.env)
  const lines = results.flatMap(({ file, stages, problems }) => [
    ...(problems.length === 0 ? [`${paint.green('✓')} ${printable(file)}: ${stages === undefined ? 'a preset' : stages.join(', ')}`] : []),
    ...problems.flatMap(({ code, message, hint }) => [
      `${paint.red('✗')} ${printable(message)} [${code}]`,
      ...(hint ? [paint.dim(`  hint: ${printable(hint)}`)] : []),
    ]),
  ])
  writeLines(world.stdout, lines)
}

interface CheckedProblem {
  readonly code: string
  readonly message: string
  readonly hint?: string
  readonly where?: { readonly file: string; readonly line?: number; readonly column?: number }
  readonly path?: string
}

interface CheckResult {
  readonly file: string
  readonly kind?: 'recipe' | 'preset'
  readonly stages?: readonly string[]
  readonly problems: readonly CheckedProblem[]
}

function checked(file: string, world: World): CheckResult {
  try {
    const found = checkFile(file, { readFile: (path) => readConfigFile(resolve(world.cwd, path)) })
    return { file, ...found, problems: [] }
  } catch (error) {
    if (error instanceof ConfigError) return { file, problems: error.messages() }
    throw error
  }
}
