import type { LineageTree } from '../domain/run/lineage.ts'
import { valueText } from '../domain/stage/value-text.ts'
import { type LineageRun, lineage } from '../runs/lineage.ts'
import { findRun } from '../store/runs.ts'
import { runsFolderOf } from './folders.ts'
import { brief } from './progress.ts'
import type { RunOptions, TrainingWorld } from './run-world.ts'
import { type Paint, paintFor, writeJson, writeLines } from './terminal.ts'

export interface LineageArguments extends RunOptions {
  run: string | undefined
  json: boolean
}

/** Changes named below a run; the stage diff has the rest. */
const namedChanges = 4

/** Draws the trees of runs. */
export function printLineage(args: LineageArguments, world: TrainingWorld): void {
  const runsFolder = runsFolderOf(args.runs, world)
  const trees = lineage(runsFolder, args.run === undefined ? undefined : findRun(runsFolder, args.run).id)
  if (args.json) {
    writeJson(world.stdout, { formatVersion: 1, trees: trees.map(treeJson) })
    return
  }
  const paint = paintFor(world.stdout, world.env)
  const lines = trees.flatMap((tree) => treeLines(tree, { first: '', rest: '' }, paint))
  writeLines(world.stdout, trees.length === 0 ? [`no runs under ${runsFolder}`] : lines)
}

/** A node's fields with its children beside them. */
function treeJson({ node, children }: LineageTree<LineageRun>): object {
  return { ...node, children: children.map(treeJson) }
}

function treeLines({ node, children }: LineageTree<LineageRun>, indent: { first: string; rest: string }, paint: Paint): string[] {
  const below = children.length > 0 ? '│ ' : '  '
  return [
    `${paint.dim(indent.first)}${paint.bold(node.id)}  ${gainText(node)}${node.end === undefined ? '' : paint.dim(`  ${node.end}`)}`,
    ...remarksOf(node).map((remark) => `${paint.dim(`${indent.rest}${below}${remark}`)}`),
    ...children.flatMap((child, index) => {
      const isLast = index === children.length - 1
      return treeLines(child, { first: `${indent.rest}${isLast ? '└─ ' : '├─ '}`, rest: `${indent.rest}${isLast ? '   ' : '│  '}` }, paint)
    }),
  ]
}

function gainText({ heldOut, step, steps }: LineageRun): string {
  const progress = step === steps ? `${steps} steps` : `${step} of ${steps} steps`
  if (!heldOut) return progress
  const change = 100 * (heldOut.last / heldOut.first - 1)
  return `${progress}, held-out ${brief(heldOut.first)} → ${brief(heldOut.last)} (${change <= 0 ? '−' : '+'}${Math.abs(change).toFixed(0)} %)`
}

function remarksOf({ verb, from, changes, vae }: LineageRun): string[] {
  const remarks: string[] = []
  if (verb === 'replay') remarks.push('repeats it')
  else if (from) remarks.push(`${verb} from step ${from.step} (${from.use})`)
  if (vae) remarks.push(`latents of ${vae}`)
  const named = changes.slice(0, namedChanges).map(({ path, before, after }) => `${path} ${valueText(before)} → ${valueText(after)}`)
  const more = changes.length > namedChanges ? [`${changes.length - namedChanges} more settings; see stagewright diff`] : []
  return [...remarks, ...named, ...more]
}
