import { chainTable } from '../domain/diff/chain.ts'
import { jsonPatch } from '../domain/diff/patch.ts'
import { diffStages, isSame, type StageDiff } from '../domain/diff/stage-diff.ts'
import { UserError } from '../domain/errors.ts'
import { stageFindings } from '../domain/findings/stage-findings.ts'
import type { StageSide } from '../domain/stage/origin.ts'
import { type AddressContext, resolveSide, resolveSides } from '../runs/addresses.ts'
import { chainLines } from './chain-text.ts'
import { diffMarkdown } from './diff-markdown.ts'
import { diffLines } from './diff-text.ts'
import { runsFolderOf, upstreamCheckoutOf } from './folders.ts'
import { paintFor, type World, widthOf, writeJson, writeLines } from './terminal.ts'

const formatVersion = 1

export interface DiffArguments {
  a: string
  b: string | undefined
  full: boolean
  json: boolean
  markdown: boolean
  patch: boolean
  chain: boolean
  set: string[]
  clips: number | undefined
  runs: string | undefined
  trainer: string | undefined
  upstream: string | undefined
}

/** Prints the difference of two stages, two recipes or a chain, and sets the exit code: 0 same, 1 different. */
export async function runDiff(args: DiffArguments, world: World): Promise<void> {
  refuseSeveralForms(args)
  const context = {
    cwd: world.cwd,
    runsFolder: runsFolderOf(args.runs, world),
    upstreamCheckout: upstreamCheckoutOf(args.upstream, world),
    trainer: args.trainer,
  }
  if (args.chain) return printChain(args, { ...context, set: args.set }, world)
  if (args.b === undefined)
    throw new UserError('DIFF_SIDES', 'diff: expected two stages, got one', {
      hint: 'stagewright diff A B, or stagewright diff --chain RECIPE',
    })
  const [left, right] = [await resolveSides(args.a, context), await resolveSides(args.b, { ...context, set: args.set })]
  if (left.length > 1 && right.length > 1 && !args.patch) return printRecipes(args, left, right, world)
  const a = left.length === 1 ? left[0] : await resolveSide(args.a, context)
  const b = right.length === 1 ? right[0] : await resolveSide(args.b, { ...context, set: args.set })
  if (a && b) printPair(args, a, b, world)
}

function refuseSeveralForms({ json, markdown, patch }: DiffArguments): void {
  if ([json, markdown, patch].filter(Boolean).length < 2) return
  throw new UserError('DIFF_FORM', 'diff: expected one of --json, --markdown and --patch, got several', { hint: 'choose one' })
}

function printPair(args: DiffArguments, a: StageSide, b: StageSide, world: World): void {
  const diff = diffStages(a, b, optionsOf(args))
  world.setExitCode(isSame(diff) ? 0 : 1)
  if (args.patch) writeJson(world.stdout, jsonPatch(a.stage, b.stage))
  else if (args.json) writeJson(world.stdout, { formatVersion, ...jsonOf(diff, args) })
  else if (args.markdown) writeLines(world.stdout, diffMarkdown(diff))
  else writeLines(world.stdout, diffLines(diff, styleOf(world)))
}

function optionsOf({ full, clips }: DiffArguments) {
  return { full, findingsOf: stageFindings, ...(clips === undefined ? {} : { clips }) }
}

/** The lists that only `--full` fills are left out without it. */
function jsonOf({ chosen, unchanged, ...diff }: StageDiff, { full }: DiffArguments) {
  return full ? { ...diff, chosen, unchanged } : diff
}

function styleOf(world: World) {
  return { paint: paintFor(world.stdout, world.env), columns: widthOf(world.stdout) }
}

async function printChain(args: DiffArguments, context: AddressContext, world: World): Promise<void> {
  if (args.b !== undefined || args.patch)
    throw new UserError('DIFF_SIDES', 'diff --chain: expected one recipe, got more', { hint: 'stagewright diff --chain RECIPE' })
  const chain = chainTable(await resolveSides(args.a, context))
  world.setExitCode(chain.rows.length === 0 ? 0 : 1)
  if (args.json) writeJson(world.stdout, { formatVersion, recipe: args.a, ...chain })
  else writeLines(world.stdout, chainLines(chain, styleOf(world)))
}

/** Two whole recipes: their stages of one name are compared, the others are named. */
function printRecipes(args: DiffArguments, left: readonly StageSide[], right: readonly StageSide[], world: World): void {
  const pairs = pairedByName(left, right)
  const diffs = pairs.both.map(({ a, b }) => ({ name: b.stage.name, diff: diffStages(a, b, optionsOf(args)) }))
  const alone = { onlyInA: pairs.onlyInA, onlyInB: pairs.onlyInB }
  const same = diffs.every(({ diff }) => isSame(diff)) && alone.onlyInA.length + alone.onlyInB.length === 0
  world.setExitCode(same ? 0 : 1)
  if (args.json) {
    writeJson(world.stdout, {
      formatVersion,
      a: { label: args.a },
      b: { label: args.b },
      stages: diffs.map(({ name, diff }) => ({ name, ...jsonOf(diff, args) })),
      ...alone,
    })
    return
  }
  const lines = diffs.flatMap(({ diff }) => [...(args.markdown ? diffMarkdown(diff) : diffLines(diff, styleOf(world))), ''])
  writeLines(world.stdout, [
    ...lines,
    ...alone.onlyInA.map((name) => `only in ${args.a}: ${name}`),
    ...alone.onlyInB.map((name) => `only in ${args.b}: ${name}`),
  ])
}

function pairedByName(left: readonly StageSide[], right: readonly StageSide[]) {
  const named = (sides: readonly StageSide[], name: string) => sides.find(({ stage }) => stage.name === name)
  return {
    both: left.flatMap((a) => {
      const b = named(right, a.stage.name)
      return b ? [{ a, b }] : []
    }),
    onlyInA: left.map(({ stage }) => stage.name).filter((name) => !named(right, name)),
    onlyInB: right.map(({ stage }) => stage.name).filter((name) => !named(left, name)),
  }
}
