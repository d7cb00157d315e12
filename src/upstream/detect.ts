import { type ArgumentProblem, type ParsedArguments, parseArguments } from './arguments.ts'
import { wasEverAFlag } from './flags-between-tags.ts'
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
  const hinted = hintedRelease(file, launch)
  const fits = candidates(launch.program.text, allowed).map((trainer) => ({ trainer, misfits: misfitsOf(trainer, names, hinted) }))
  const best = fits.reduce<(typeof fits)[number] | undefined>(
    (least, fit) => (least && least.misfits < fit.misfits ? least : fit),
    undefined,
  )
  if (best === undefined) return undefined
  const { given, problems } = parseArguments(launch.arguments, best.trainer)
  return { trainer: best.trainer, parsed: { given, problems: version === undefined ? betweenTags(problems, best.trainer) : problems } }
}

/**
 * Where several flags are unknown to the version that fits best, and other versions had them, the script was written for a parser between
 * the tags: nothing is wrong with it. A single one is what a rename or a removal left behind.
 */
function betweenTags(problems: readonly ArgumentProblem[], { version }: Trainer): readonly ArgumentProblem[] {
  const isOfAnotherTime = ({ rule, flag }: ArgumentProblem) => rule === 'unknown-flag' && wasEverAFlag(flag)
  if (problems.filter(isOfAnotherTime).length < 2) return problems
  return problems.map((problem) =>
    isOfAnotherTime(problem)
      ? {
          ...problem,
          severity: 'info',
          message: `--${problem.flag}: ${version} fits best and does not have it; the script seems written for a commit between two versions`,
          hint: `--trainer ${version} has it judged as one of that version`,
        }
      : problem,
  )
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

/** What a trainer's parser looks for, worked out once per trainer. */
const parsers = new WeakMap<Trainer, { readonly names: readonly string[]; readonly needed: readonly string[] }>()

function parserOf(trainer: Trainer) {
  const known = parsers.get(trainer)
  if (known) return known
  const names = Object.keys(trainer.flags)
  const parser = { names, needed: names.filter((name) => trainer.flags[name]?.required || alwaysNeeded.has(name)) }
  parsers.set(trainer, parser)
  return parser
}

/** How badly a parser fits: flags it does not have weigh most, then what it requires, then a hint of another release; a commit loses to a tag. */
function misfitsOf(trainer: Trainer, given: ReadonlySet<string>, hinted: string | undefined): number {
  const { names, needed } = parserOf(trainer)
  let unknown = 0
  for (const name of given) if (!(name in trainer.flags) && names.filter((flag) => flag.startsWith(name)).length !== 1) unknown += 1
  const missing = needed.filter((name) => !given.has(name)).length
  const elsewhere = hinted !== undefined && !trainer.version.startsWith(hinted) ? 1 : 0
  return unknown * 16 + missing * 16 + elsewhere * 2 + (trainer.version.includes('+') ? 1 : 0)
}

/** The release that names of files and arguments speak of, such as `v1.3`. */
function hintedRelease(file: string, { arguments: words }: Launch): string | undefined {
  const hints = `${file} ${words.map(({ text }) => text).join(' ')}`.replaceAll('_v1_5_scheduler', '')
  const [, named] = /(?:^|[^\d.])v?(1[._][0-5])(?![\d])/.exec(hints) ?? []
  return named === undefined ? undefined : `v${named.replace('_', '.')}`
}
