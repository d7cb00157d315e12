import { execFileSync } from 'node:child_process'
import { readFileSync, statSync } from 'node:fs'
import { dirname, isAbsolute, join, normalize, posix, resolve } from 'node:path'
import { UserError } from '../domain/errors.ts'
import type { StageSide } from '../domain/stage/origin.ts'
import { importScript } from '../upstream/import.ts'
import type { ImportedStage } from '../upstream/imported-stage.ts'
import { isKnownVersion, trainersOf } from '../upstream/trainer.ts'
import type { ScriptAddress } from './address.ts'

const mostBytes = 4 * 1024 * 1024

/** A script as it was found, and how the files it names are read. */
export interface FoundScript {
  readonly text: string
  readonly trainer: string | undefined
  readonly readFile: (path: string) => string | undefined
}

/** Where scripts are looked for, and the version they were written for where it should not be detected. */
export interface ScriptContext {
  readonly cwd: string
  readonly upstreamCheckout?: string | undefined
  readonly trainer?: string | undefined
}

/** The script an address names. Raises UserErrors SCRIPT_FILE and UPSTREAM_CHECKOUT. */
export function findScript(parsed: ScriptAddress, address: string, { cwd, upstreamCheckout, trainer }: ScriptContext): FoundScript {
  if (parsed.kind === 'script') return scriptOnDisk(resolve(cwd, parsed.file), address, trainer)
  return scriptAtVersion(upstreamCheckout, parsed.version, parsed.path, address, trainer)
}

/** A script on this machine. Files it names are looked up beside it and in the folders above. Raises UserError SCRIPT_FILE. */
function scriptOnDisk(file: string, label: string, trainer: string | undefined): FoundScript {
  const text = readSmall(file)
  if (text === undefined) {
    throw new UserError('SCRIPT_FILE', `${label}: expected a readable script of at most 4 MiB, got none`, { hint: 'check the name' })
  }
  return { text, trainer, readFile: (path) => readNear(dirname(file), path) }
}

/**
 * A script at a version or commit, read from a checkout with `git show`, so that nothing is checked out. The trainer is that of the
 * version; of a commit whose parsers are not known it is detected. Raises UserErrors UPSTREAM_CHECKOUT and SCRIPT_FILE.
 */
function scriptAtVersion(
  checkout: string | undefined,
  version: string,
  path: string,
  label: string,
  trainer: string | undefined = isKnownVersion(version) ? version : undefined,
): FoundScript {
  if (checkout === undefined) {
    throw new UserError('UPSTREAM_CHECKOUT', `${label}: expected a checkout of Open-Sora-Plan to read it from, got none`, {
      hint: 'give --upstream FOLDER, or set STAGEWRIGHT_UPSTREAM',
    })
  }
  const text = atVersion(checkout, version, path)
  if (text === undefined) {
    throw new UserError('SCRIPT_FILE', `${label}: expected ${path} at ${version} of ${checkout}, got no such file`, {
      hint: `git -C ${checkout} ls-tree -r --name-only ${version}`,
    })
  }
  const held = new Map<string, string | undefined>()
  const readFile = (named: string) => {
    if (!held.has(named)) held.set(named, leavesFolder(named) ? undefined : atVersion(checkout, version, posix.normalize(named)))
    return held.get(named)
  }
  return { text, trainer, readFile }
}

/** Every launch of a script, with labels that tell them apart; none where it starts no trainer. */
export function launchesOf({ text, trainer, readFile }: FoundScript, label: string): readonly ImportedStage[] {
  const sides = importScript(text, { file: label, trainer, readFile })
  return sides.length > 1 ? sides.map((side) => ({ ...side, label: `${label} (${side.stage.name})` })) : sides
}

/** As `launchesOf`. Raises UserError SCRIPT_LAUNCH where the script starts no trainer. */
export function someLaunchesOf(script: FoundScript, label: string): readonly ImportedStage[] {
  const sides = launchesOf(script, label)
  if (sides.length > 0) return sides
  throw new UserError('SCRIPT_LAUNCH', `${label}: expected the launch of one of upstream’s trainers, got none`, {
    hint: '`stagewright lint` says what it found; --trainer names a version',
  })
}

/** What the text-to-video trainer of a version does with no option at all. */
export function trainerDefaults(version: string, label: string): StageSide {
  const trainer = trainersOf(version).find(({ family }) => family === 'diffusion') ?? trainersOf(version)[0]
  const [side] = importScript(`python ${trainer?.path}`, { file: label, trainer: version })
  if (side) return { ...side, findings: [] }
  throw new UserError('UPSTREAM_VERSION', `${label}: expected a version whose trainer is known, got ${version}`)
}

function readNear(folder: string, named: string): string | undefined {
  if (leavesFolder(named)) return undefined
  const above = [folder]
  while (above.length < 6 && dirname(above.at(-1) ?? '') !== above.at(-1)) above.push(dirname(above.at(-1) ?? ''))
  for (const base of above) {
    const text = readSmall(join(base, named))
    if (text !== undefined) return text
  }
  return undefined
}

function readSmall(file: string): string | undefined {
  try {
    const info = statSync(file)
    return info.isFile() && info.size <= mostBytes ? readFileSync(file, 'utf8') : undefined
  } catch {
    return undefined
  }
}

/** Scripts come from anywhere: what they name is read inside the tree they belong to, and nowhere else. */
function leavesFolder(path: string): boolean {
  return isAbsolute(path) || normalize(path).startsWith('..') || path.includes('\0') || path.startsWith('-')
}

function atVersion(checkout: string, version: string, path: string): string | undefined {
  try {
    return execFileSync('git', ['-C', checkout, 'show', `${version}:${path}`], {
      encoding: 'utf8',
      maxBuffer: mostBytes,
      stdio: ['ignore', 'pipe', 'ignore'],
    })
  } catch {
    return undefined
  }
}
