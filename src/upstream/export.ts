import { UserError } from '../domain/errors.ts'
import type { Stage } from '../domain/stage/schema.ts'
import { fieldsOf } from './flag-fields.ts'
import { launchKeys, sameValue } from './imported-stage.ts'
import { megatronFiles } from './megatron-files.ts'
import { redacted } from './secrets.ts'
import { type FlagValue, type Trainer, trainersOf } from './trainer.ts'

/** A stage as a command for upstream's own trainer. */
export interface ExportedStage {
  readonly trainer: Trainer
  /** The script, ready to run from the root of upstream's tree at that version. */
  readonly script: string
  /** Settings that this version has no flag for, by name: they are left out. */
  readonly dropped: readonly string[]
  /** Files the command reads, by the path it names: v1.5's model and data. */
  readonly files: ReadonlyMap<string, string>
}

const familyOfKind: Readonly<Record<Stage['kind'], readonly Trainer['family'][]>> = {
  'text-to-video': ['diffusion', 'megatron'],
  inpaint: ['inpaint'],
  'class-to-video': ['class'],
  lora: ['lora', 'diffusion'],
  vae: ['vae', 'videogpt'],
}

/** The launch command of a stage at a version of upstream. Raises UserErrors UPSTREAM_VERSION and UPSTREAM_KIND. */
export function exportStage(stage: Stage, version: string): ExportedStage {
  const trainer = trainerFor(stage, version)
  const fields = fieldsOf(trainer)
  const flags = new Map<string, FlagValue>()
  for (const [name, spec] of Object.entries(trainer.flags)) {
    const value = name in stage.upstream ? (stage.upstream[name] as FlagValue) : (fields.get(name)?.write(stage, spec) ?? spec.default)
    if (spec.type === 'switch' && value === false) continue
    if (spec.required || !sameValue(value, spec.default)) flags.set(name, value)
  }
  const others = Object.entries(stage.upstream).filter(([name]) => !(name in trainer.flags) && !/^(?:launch|model|data)\./.test(name))
  const open = trainer.family === 'megatron' || trainer.family === 'videogpt' || stage.upstream[launchKeys.version] === trainer.version
  if (open) for (const [name, value] of others) flags.set(name, value as FlagValue)
  const lines = [...launchLine(stage, trainer), ...[...flags].flatMap(([name, value]) => argument(name, value))]
  return {
    trainer,
    script: `${environment(stage)}${lines.join(' \\\n  ')}\n`,
    dropped: open ? [] : others.map(([name]) => name),
    files: trainer.family === 'megatron' ? megatronFiles(stage) : new Map(),
  }
}

function trainerFor(stage: Stage, version: string): Trainer {
  const program = stage.upstream[launchKeys.program]
  const wanted = familyOfKind[stage.kind]
  const all = trainersOf(version)
  const base = typeof program === 'string' ? program.replace(/^.*\//, '') : undefined
  const found =
    all.find(({ path, family }) => wanted.includes(family) && path.replace(/^.*\//, '') === base) ??
    all.find(({ family }) => wanted.includes(family))
  if (found) return found
  throw new UserError('UPSTREAM_KIND', `${stage.name}: expected a trainer for ${stage.kind} at ${version}, got none`, {
    hint: `that version trains ${[...new Set(all.map(({ family }) => family))].join(', ')}`,
  })
}

function launchLine(stage: Stage, trainer: Trainer): string[] {
  const kept = stage.upstream[launchKeys.launcher]
  const options = Object.entries(stage.upstream)
    .filter(([name]) => name.startsWith(launchKeys.option))
    .map(([name, value]) => launcherOption(name.slice(launchKeys.option.length), value as FlagValue))
  const program = String(stage.upstream[launchKeys.program] ?? trainer.path)
  if (typeof kept === 'string') return [commandOf(kept), ...options, quoted(program)]
  const { nodes, processes } = stage.parallel
  if (trainer.family === 'vae') return ['torchrun', `--nnodes=${nodes} --nproc_per_node=${processes}`, quoted(program)]
  return ['accelerate launch', `--num_machines ${nodes} --num_processes ${nodes * processes}`, quoted(program)]
}

function commandOf(launcher: string): string {
  if (launcher === 'accelerate') return 'accelerate launch'
  return launcher === 'torch.distributed' ? 'python -m torch.distributed.launch' : launcher
}

function launcherOption(name: string, value: FlagValue): string {
  const dashes = name.length === 1 ? '-' : '--'
  return value === true ? `${dashes}${name}` : `${dashes}${name}=${quoted(String(value))}`
}

function argument(name: string, value: FlagValue): string[] {
  if (value === true) return [`--${name}`]
  if (value === null) return []
  if (value === false) return [`--${name}=False`]
  if (Array.isArray(value)) return [`--${name} ${value.map((each) => quoted(String(each))).join(' ')}`]
  return [`--${name}=${quoted(shownNumber(value as string | number))}`]
}

function shownNumber(value: string | number): string {
  return typeof value === 'number' ? String(value) : value
}

/** A word bash hands over unchanged, save for variables the environment gives. */
function quoted(text: string): string {
  if (/^[\w@%+=:,./-]+$/.test(text)) return text
  if (text.includes(redacted)) return "''"
  if (/\$\(/.test(text) && !/["\\]/.test(text)) return `"${text}"`
  if (/\$\{?[A-Za-z_]|\$\(/.test(text)) return `"${text.replace(/["\\`]/g, '\\$&')}"`
  return `'${text.replaceAll("'", `'\\''`)}'`
}

/** Upstream's trainers name their tracker's project after this variable. */
function environment({ upstream }: Stage): string {
  const project = upstream[launchKeys.project]
  return typeof project === 'string' ? `export PROJECT=${quoted(project)}\n` : ''
}
