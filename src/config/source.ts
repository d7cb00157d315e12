import { readFileSync, statSync } from 'node:fs'
import { dirname, isAbsolute, join, normalize } from 'node:path'
import type { Layer } from './layer.ts'
import { errorOf } from './problems.ts'
import { type Named, presetOf, type RecipeSource, recipeOf } from './recipe-file.ts'
import { readYaml } from './yaml.ts'

export type ReadFile = (file: string) => Uint8Array | string

/** Bytes of a configuration file; devices, pipes and very large files are refused before they are read. */
export function readConfigFile(file: string): Uint8Array {
  const info = statSync(file)
  if (!info.isFile()) throw Object.assign(new Error('not a file'), { code: info.isDirectory() ? 'EISDIR' : 'ENOTFILE' })
  if (info.size > 16 * 1024 * 1024) throw Object.assign(new Error('too large'), { code: 'EFBIG' })
  return readFileSync(file)
}

/** The files of one load, each read once. */
export class Sources {
  readonly #read: ReadFile
  readonly #recipes = new Map<string, RecipeSource>()
  readonly #presets = new Map<string, Layer>()

  constructor(read: ReadFile) {
    this.#read = read
  }

  /** A recipe's file; `from` is where it was named, if in a file. Raises UserErrors with places. */
  recipe(file: string, from?: Named): RecipeSource {
    const known = this.#recipes.get(file)
    if (known) return known
    const recipe = recipeOf(readYaml(this.#bytes(file, from), file), file)
    this.#recipes.set(file, recipe)
    return recipe
  }

  /** The settings of a preset's file. */
  preset(file: string, from?: Named): Layer {
    const known = this.#presets.get(file)
    if (known) return known
    const layer = presetOf(readYaml(this.#bytes(file, from), file), file)
    this.#presets.set(file, layer)
    return layer
  }

  /** Whether a file is written as a preset; what else is wrong with it is left to reading it. */
  isPreset(file: string): boolean {
    const node = readYaml(this.#bytes(file, undefined), file)
    return node.kind === 'record' && node.entries.has('preset') && !node.entries.has('stages')
  }

  #bytes(file: string, from: Named | undefined): Uint8Array | string {
    return readNamed(file, this.#read, { hint: 'check the name; paths in a file count from its folder', from })
  }
}

const reasons: Readonly<Record<string, string>> = {
  ENOENT: 'there is none',
  EISDIR: 'it is a folder',
  EACCES: 'reading is not permitted',
  ENOTFILE: 'it is a device or a pipe',
  EFBIG: 'it is too large',
}

/** A file that somebody named, here or in another file. Raises UserError CONFIG_FILE at that place where it cannot be read. */
export function readNamed(file: string, read: ReadFile, { hint, from }: { hint: string; from?: Named | undefined }): Uint8Array | string {
  try {
    return read(file)
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code
    if (typeof code !== 'string') throw cause
    const text = `expected a readable file, got ${file}: ${reasons[code] ?? code}`
    throw errorOf([{ code: 'CONFIG_FILE', place: from?.place ?? { file }, path: from?.path ?? '', text, hint }])
  }
}

/** A path written in a file, counted from that file's folder. */
export function besideFile(file: string, path: string): string {
  return isAbsolute(path) ? normalize(path) : join(dirname(file), path)
}
