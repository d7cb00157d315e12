/*
 * Trees, findings, differences and load plans as lines of at most 80 columns.
 */

import type { LoadPlan, PlannedTensor } from './load-plan.ts'
import type { TreeNode } from './module-tree.ts'
import type { VerifiedFile } from './verify.ts'
import type { Distance, TensorChange, WeightDiff } from './weight-diff.ts'

const columns = 80
const listed = 20

/** A tree, one line a module or tensor: name, parameters, bytes, dtypes, shape; then the total. */
export function treeLines(root: TreeNode): string[] {
  const lines: string[] = []
  const visit = (node: TreeNode, indent: string) => {
    for (const child of node.children) {
      lines.push(row(indent + safe(child.label), child, child.shape ? `[${child.shape.join(', ')}]` : tensorCount(child)))
      visit(child, `${indent}  `)
    }
  }
  visit(root, '')
  return [...lines, row('total', root, tensorCount(root))]
}

function tensorCount({ tensors }: TreeNode): string {
  return tensors === 1 ? '1 tensor' : `${tensors} tensors`
}

function row(label: string, node: TreeNode, what: string): string {
  const dtypes = Object.keys(node.dtypes).sort().join(' ')
  return cut(
    `${cut(label, 34).padEnd(34)} ${countText(node.parameters).padStart(8)} ${bytesText(node.bytes).padStart(9)}  ${dtypes.padEnd(4)} ${what}`,
  )
}

/** Findings file by file with offset and rule, then how many. */
export function findingLines(files: readonly VerifiedFile[]): string[] {
  const count = files.reduce((sum, { findings }) => sum + findings.length, 0)
  const lines = files.flatMap(({ file, findings }) => [
    `${safe(file)}: ${findings.length === 0 ? 'ok' : ''}`.trimEnd(),
    ...findings.map(({ severity, rule, offset, message }) => `  ${severity} ${rule} at byte ${offset}: ${message}`),
  ])
  return [...lines, count === 0 ? 'nothing wrong' : `${count} finding${count === 1 ? '' : 's'}`]
}

/** Differences by module, then tensor by tensor: at most 20 of each unless `full`. */
export function diffLines(diff: WeightDiff, full: boolean): string[] {
  if (diff.changes.length === 0) return [`same: ${diff.same} tensors`]
  const touched = diff.modules.filter(
    ({ changedTensors, module }) => changedTensors > 0 && module !== '' && (full || module.split('.').length <= 2),
  )
  const modules = touched.map(({ module, changedTensors, tensors, distance }) =>
    cut(`${cut(safe(module), 36).padEnd(36)} ${`${changedTensors}/${tensors}`.padStart(9)}  ${distanceText(distance)}`),
  )
  const whole = diff.modules.find(({ module }) => module === '')
  return [
    ...(modules.length > 0 ? ['module, tensors changed, distance', ...shortened(modules, full), ''] : []),
    ...shortened(diff.changes.map(changeLine), full),
    '',
    `${diff.changes.length} different, ${diff.same} same${whole ? `; over what changed: ${distanceText(whole.distance)}` : ''}`,
  ]
}

function changeLine(change: TensorChange): string {
  const name = cut(safe(change.name), 36).padEnd(36)
  switch (change.kind) {
    case 'only-a':
      return `${name} only in the first`
    case 'only-b':
      return `${name} only in the second`
    case 'reshaped':
      return cut(`${name} [${change.before.join(', ')}] → [${change.after.join(', ')}]`)
    case 'changed': {
      const [before, after] = change.dtypes
      const dtype = before === after ? '' : `${before} → ${after} `
      return cut(`${name} ${dtype}${change.distance ? distanceText(change.distance) : 'bytes differ'}`)
    }
    default:
      return change satisfies never
  }
}

function distanceText({ maxAbs, relativeL2, nonFinite }: Distance): string {
  const odd = nonFinite > 0 ? `, ${nonFinite} not finite` : ''
  return `max |Δ| ${shortNumber(maxAbs)}, rel. L2 ${shortNumber(relativeL2)}${odd}`
}

/** What a load plan would do: percentage first, then what is not exact and whether the recipe accepts it. */
export function planLines(plan: LoadPlan, full = false): string[] {
  const counts = `${plan.exact.length} exact, ${plan.reshaped.length} reshaped, ${plan.missing.length} missing, ${plan.unexpected.length} unexpected`
  const sections = [
    section('reshaped', plan.reshaped, full),
    section('missing', plan.missing, full),
    section('unexpected', plan.unexpected, full),
  ]
  return [
    `${percentText(plan.percentExact)} of ${countText(plan.parameters)} parameters load exactly: ${counts}`,
    ...sections.flat(),
    ...(plan.refused.length > 0 ? [`${plan.refused.length} tensors are not accepted: each needs an accept line in the recipe`] : []),
    ...plan.unused.map((line) => cut(`accept line that allows nothing: ${safe(line)}`)),
  ]
}

function section(title: string, tensors: readonly PlannedTensor[], full: boolean): string[] {
  const lines = tensors.map(({ name, parameters, acceptedBy }) =>
    cut(
      `  ${cut(safe(name), 40).padEnd(40)} ${countText(parameters).padStart(8)}  ${acceptedBy === undefined ? 'refused' : `accepted by ${safe(acceptedBy)}`}`,
    ),
  )
  return lines.length === 0 ? [] : [`${title}:`, ...shortened(lines, full)]
}

function shortened(lines: readonly string[], full: boolean): readonly string[] {
  return full || lines.length <= listed ? lines : [...lines.slice(0, listed), `  … ${lines.length - listed} more`]
}

/** 99.99 never rounds to 100: only everything is everything. */
function percentText(percent: number): string {
  return percent === 100 ? '100 %' : `${(Math.floor(percent * 10) / 10).toFixed(1)} %`
}

function countText(count: number): string {
  if (count < 1e4) return String(count)
  if (count < 1e6) return `${(count / 1e3).toFixed(1)} k`
  return count < 1e9 ? `${(count / 1e6).toFixed(1)} M` : `${(count / 1e9).toFixed(2)} G`
}

function bytesText(bytes: number): string {
  if (bytes < 1024) return `${bytes} B`
  if (bytes < 1024 ** 2) return `${(bytes / 1024).toFixed(1)} KiB`
  return bytes < 1024 ** 3 ? `${(bytes / 1024 ** 2).toFixed(1)} MiB` : `${(bytes / 1024 ** 3).toFixed(2)} GiB`
}

function shortNumber(value: number): string {
  return Number.isFinite(value) ? String(Number(value.toPrecision(3))) : '∞'
}

function cut(text: string, width = columns): string {
  if (text.length <= width) return text
  const letters = [...text]
  return letters.length <= width ? text : `${letters.slice(0, width - 1).join('')}…`
}

/** Names come from files: what a terminal would obey is escaped. */
function safe(text: string): string {
  if (/^[ -~]*$/.test(text)) return text
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (letter) => `\\u{${letter.codePointAt(0)?.toString(16)}}`)
}
