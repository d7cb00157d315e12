import { type ParsedArguments, parseArguments } from './arguments.ts'
import type { Launch } from './launcher.ts'
import { type Trainer, trainers, trainersOf } from './trainer.ts'

export interface Detected {
  readonly trainer: Trainer
  readonly parsed: ParsedArguments
}

/**
 * The trainer a launch was written for: of those with its program, the one whose parser fits the flags best, the newest of equals.
 * `version` restricts the choice. Undefined where the program is no trainer that is known. Raises UserError UPSTREAM_VERSION.
 */
export function detectTrainer(launch: Launch, file: string, version: string | undefined): Detected | undefined {
  const allowed = version === undefined ? trainers : trainersOf(version)
  const names = namesGiven(launch)
  const hints = `${file} ${launch.arguments.map(({ text }) => text).join(' ')}`
  const fits = candidates(launch.program.text, allowed).map((trainer) => ({ trainer, misfits: misfitsOf(trainer, names, hints) }))
  const best = fits.reduce<(typeof fits)[number] | undefined>(
    (least, fit) => (least && least.misfits < fit.misfits ? least : fit),
    undefined,
  )
  return best && { trainer: best.trainer, parsed: parseArguments(launch.arguments, best.trainer) }
}

function namesGiven({ arguments: words }: Launch): ReadonlySet<string> {
  return new Set(words.flatMap(({ text }) => /^--([A-Za-z][\w.-]*)/.exec(text)?.[1] ?? []))
}

const megatronPrograms = /pretrain_(?:sora|opensora)[\w.]*\.py$/

function candidates(program: string, allowed: readonly Trainer[]): readonly Trainer[] {
  if (megatronPrograms.test(program)) return trainersFor((trainer) => trainer.family === 'megatron', allowed)
  const name = program.replace(/^.*\//, '')
  if (name === 'train.py' && !/(?:^|\/)opensora\/train\/train\.py$/.test(program)) return []
  const found = trainersFor(({ path }) => path.replace(/^.*\//, '') === name, allowed)
  if (found.length > 0 || !/\/?train_(?:t2v|inpaint|causalvae|videogpt|t2i|i2v|lora|image)\w*\.py$/.test(name)) return found
  const like = /causalvae|vae/.test(name) ? 'vae' : /inpaint|i2v/.test(name) ? 'inpaint' : /lora/.test(name) ? 'lora' : 'diffusion'
  return trainersFor(({ family }) => family === like, allowed)
}

function trainersFor(chosen: (trainer: Trainer) => boolean, allowed: readonly Trainer[]): readonly Trainer[] {
  const within = allowed.filter(chosen)
  return within.length > 0 ? within : trainers.filter(chosen)
}

/** Flags without which a trainer fails although its parser lets them go. */
const alwaysNeeded: ReadonlySet<string> = new Set(['model_name'])

/** How badly a parser fits: flags it does not have weigh most, then what it requires, then hints of another release; a commit loses to a tag. */
function misfitsOf(trainer: Trainer, given: ReadonlySet<string>, hints: string): number {
  const flags = Object.keys(trainer.flags)
  const unknown = [...given].filter((name) => !(name in trainer.flags) && flags.filter((flag) => flag.startsWith(name)).length !== 1).length
  const missing = Object.entries(trainer.flags).filter(
    ([name, { required }]) => (required || alwaysNeeded.has(name)) && !given.has(name),
  ).length
  const [, named] = /(?:^|[^\d.])v?(1[._][0-5])(?![\d])/.exec(hints.replaceAll('_v1_5_scheduler', '')) ?? []
  const elsewhere = named !== undefined && !trainer.version.startsWith(`v${named.replace('_', '.')}`) ? 1 : 0
  return unknown * 16 + missing * 16 + elsewhere * 2 + (trainer.version.includes('+') ? 1 : 0)
}
