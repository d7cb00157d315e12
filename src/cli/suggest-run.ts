import { existsSync, writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { UserError } from '../domain/errors.ts'
import { valueText } from '../domain/stage/value-text.ts'
import { parseGpus, type Suggestion, suggest } from '../runs/suggest.ts'
import { runsFolderOf, upstreamCheckoutOf } from './folders.ts'
import type { RunOptions, TrainingWorld } from './run-world.ts'
import { paintFor, wrapped, writeJson, writeLines } from './terminal.ts'

export interface SuggestArguments extends RunOptions {
  clips: number
  gpus: string
  from: string
  weights: string | undefined
  vae: string | undefined
  output: string
  print: boolean
  json: boolean
}

/** Suggests a recipe and writes it, unless a file of that name is there. Exit code 1 where nothing fits into the memory. */
export async function runSuggest(args: SuggestArguments, world: TrainingWorld): Promise<void> {
  const runs = await world.runsWorld({ runsFolder: runsFolderOf(args.runs, world), pythonEnv: args.pythonEnv })
  const context = { cwd: world.cwd, runsFolder: runs.runsFolder, upstreamCheckout: upstreamCheckoutOf(undefined, world) }
  const path = resolve(world.cwd, args.output)
  const writes = !args.json && !args.print
  if (writes && existsSync(path)) {
    throw new UserError('OUTPUT_EXISTS', `${args.output}: expected no such file, got one`, { hint: 'name another with --output' })
  }
  const means = { clips: args.clips, ...parseGpus(args.gpus) }
  const suggestion = await suggest(args.from, means, { weights: args.weights, vae: args.vae, output: args.output }, context, runs)
  if (!suggestion.memory.fits) world.setExitCode(1)
  if (args.json) writeJson(world.stdout, { formatVersion: 1, ...suggestion })
  else if (!writes) world.stdout.write(suggestion.recipe)
  else {
    writeFileSync(path, suggestion.recipe, { flag: 'wx' })
    explain(suggestion, args, world)
  }
}

function explain({ settings, memory, trainable, unknowns }: Suggestion, { output, gpus }: SuggestArguments, world: TrainingWorld): void {
  const { bold, dim, red } = paintFor(world.stdout, world.env)
  const gigabytes = (memory.bytes / 2 ** 30).toFixed(1)
  writeLines(world.stdout, [
    ...settings.flatMap(({ path, value, reason, source }) => [
      `${bold(path)} ${valueText(value)}`,
      ...wrapped(`${reason} [${source}]`, 76).map((line) => dim(`    ${line}`)),
    ]),
    '',
    `trains ${(trainable.parameters / 1e6).toFixed(1)} M parameters at first (${(100 * trainable.share).toFixed(0)} %)`,
    `memory about ${gigabytes} GiB a GPU (± ${Math.round(100 * memory.error)} %)${memory.fits ? '' : red(` and ${gpus} does not hold that; nothing that is known here makes it smaller`)}`,
    ...unknowns.map((line) => `not known: ${line}`),
    '',
    `wrote ${output}. Next: stagewright plan ${output} --data FOLDER`,
  ])
}
