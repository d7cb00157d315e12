import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { engineChoiceOf } from '../config/engine-file.ts'
import { readConfigFile } from '../config/source.ts'
import type { EngineChoice } from '../domain/engine-choice.ts'
import type { EngineOptions } from './engine-options.ts'
import type { World } from './terminal.ts'

/** The engine asked for; undefined where none is, so that a run stays where it was. */
export function chosenEngine(options: EngineOptions, { cwd, env }: World): EngineChoice | undefined {
  const set = options.slurm ?? []
  const name = options.engine ?? (set.length > 0 ? 'slurm' : undefined)
  if (!name) return undefined
  const named = options.engines ?? env.STAGEWRIGHT_ENGINES
  const path = resolve(cwd, named ?? 'engines.yaml')
  if (named === undefined && !existsSync(path)) return engineChoiceOf({ name, set }, undefined)
  return engineChoiceOf({ name, set }, { name: named ?? 'engines.yaml', bytes: readConfigFile(path) })
}
