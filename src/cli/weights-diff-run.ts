import { choiceFor, type NamedWeights, namedWeights, type TrainedAsSaid, trainedAsSaid } from '../runs/weight-changes.ts'
import { parseNameMap } from '../weights/name-map.ts'
import { diffLines } from '../weights/text.ts'
import { diffWeights } from '../weights/weight-diff.ts'
import { weightSet } from '../weights/weight-set.ts'
import { runsFolderOf } from './folders.ts'
import type { RunOptions, TrainingWorld } from './run-world.ts'
import { printable, writeJson, writeLines } from './terminal.ts'
import type { Use } from './weights-run.ts'

export interface WeightDiffArguments extends RunOptions {
  a: string
  b: string
  map: string[]
  use: Use
  full: boolean
  json: boolean
}

const formatVersion = 1

/** Exit code 1 where anything differs. Where the second is a run's, what it said would train is held against what did. */
export async function diff(
  { a, b, map, use, full, json, runs: folder, pythonEnv }: WeightDiffArguments,
  world: TrainingWorld,
): Promise<void> {
  const runsFolder = runsFolderOf(folder, world)
  const [left, right] = [a, b].map((address) => namedWeights(address, { cwd: world.cwd, runsFolder })) as [NamedWeights, NamedWeights]
  const choice = choiceFor(use, [left, right])
  const [before, after] = [weightSet(left.path, choice), weightSet(right.path, choice)]
  const found = diffWeights(before, after, map.map(parseNameMap))
  const joined =
    right.run && (await trainedAsSaid(right.run, found, after.tensors.keys(), await world.runsWorld({ runsFolder, pythonEnv })))
  if (json)
    writeJson(world.stdout, withTags({ formatVersion, a: before.path, b: after.path, ...found, ...(joined ? { trained: joined } : {}) }))
  else writeLines(world.stdout, [...diffLines(found, full), ...(joined ? joinedLines(joined, full) : [])])
  if (found.changes.length > 0) world.setExitCode(1)
}

function joinedLines({ run, frozenChanged, trainableSame }: TrainedAsSaid, full: boolean): string[] {
  const list = (title: string, names: readonly string[]) => {
    const shown = full ? names : names.slice(0, 8)
    const more = names.length - shown.length
    return [
      `  ${title}: ${names.length}`,
      ...shown.map((name) => `    ${printable(name)}`),
      ...(more > 0 ? [`    and ${more} more (--full)`] : []),
    ]
  }
  return [
    '',
    `against the stage of ${run}`,
    ...list('frozen and yet changed', frozenChanged),
    ...list('trainable and yet the same', trainableSame),
  ]
}

/** JSON has no infinity; a distance from weights that are all zero is one. */
function withTags(value: object): unknown {
  return JSON.parse(JSON.stringify(value, (_, part) => (part === Number.POSITIVE_INFINITY ? { $f: 'inf' } : part)))
}
