import { columnsOf, padded, wrapped } from '../../src/cli/terminal.ts'
import type { Benchmark, Result } from './figure.ts'

const indent = '    '
const columns = 100

/** A benchmark's result for a terminal: the number, its interval and goal, then what it is. */
export function resultLines(result: Result): string[] {
  const { figureValue, name } = result
  const head =
    figureValue === null
      ? `not measured: ${result.skipped}`
      : `${numberText(figureValue.value, result.unit)}  (${intervalText(result)}, ${result.rounds} rounds)  ${verdict(result)}`
  const sides = Object.entries(result.medians).map(([side, value]) => `${side} ${short(value)}`)
  const told = [result.what, result.figure === 'value' ? '' : sides.join(', '), result.note].filter((part) => part !== '').join('; ')
  return [`  ${padded(name, 34)}${head}`.trimEnd(), ...wrapped(told, columns - indent.length).map((line) => indent + line)]
}

export function listedLines(name: string, benchmarks: readonly Benchmark[]): string[] {
  const width = Math.max(...benchmarks.map((each) => columnsOf(each.name))) + 2
  return [name, ...benchmarks.map((each) => `  ${padded(each.name, width)}${goalText(each)}  ${each.what}`)]
}

/** The table the README shows: one row per benchmark, in the order given. */
export function markdown(machine: string, results: readonly Result[]): string {
  const rows = results.map((result) => {
    const measured = result.figureValue === null ? '–' : `${numberText(result.figureValue.value, result.unit)} (${intervalText(result)})`
    return `| ${[`${result.group} ${result.name}`, result.what.replaceAll('|', '\\|'), measured, goalText(result), result.skipped ?? mark(result)].join(' | ')} |`
  })
  return ['| benchmark | what | measured (95 %) | goal | |', '|---|---|---|---|---|', ...rows, '', machine, ''].join('\n')
}

function verdict(result: Result): string {
  return result.goal === null ? '' : `goal ${goalText(result)}: ${mark(result)}`
}

function mark({ reached }: Result): string {
  return reached === null ? '' : reached ? 'reached' : 'missed'
}

function goalText({ goal, unit }: Benchmark): string {
  return goal === null ? '' : `${goal.at === 'most' ? '≤' : '≥'} ${numberText(goal.value, unit)}`
}

function intervalText({ figureValue }: Result): string {
  return figureValue === null ? '' : `${short(figureValue.low)}–${short(figureValue.high)}`
}

function numberText(value: number, unit: string): string {
  return unit === '×' ? `${short(value)}×` : `${short(value)} ${unit}`
}

/** Three digits that count, thousands separated. */
function short(value: number): string {
  if (Math.abs(value) >= 1000) return Math.round(value).toLocaleString('en-US')
  return String(Number(value.toPrecision(3)))
}
