import type { Change } from '../domain/diff/change.ts'
import { byGroups, type StageDiff } from '../domain/diff/stage-diff.ts'
import type { Finding } from '../domain/stage/origin.ts'
import { derivedText, notableConsequences, remarksOf, sidesText, summaryLines } from './diff-text.ts'
import { paintFor } from './terminal.ts'

/** A stage diff as Markdown, for a pull request or a note. */
export function diffMarkdown(diff: StageDiff): string[] {
  return [
    `## ${code(diff.a.label)} → ${code(diff.b.label)}`,
    ...byGroups(diff.changes).flatMap(({ group, entries }) =>
      section(group, ['setting', 'before', 'after', 'change', 'impact'], entries.map(changeCells)),
    ),
    ...renames(diff),
    ...consequences(diff),
    ...findings(diff.findings),
    '',
    ...summary(diff),
  ]
}

function section(title: string, head: readonly string[], rows: readonly (readonly string[])[]): string[] {
  return ['', `### ${title.charAt(0).toUpperCase()}${title.slice(1)}`, '', row(head), row(head.map(() => '---')), ...rows.map(row)]
}

function changeCells(change: Change): string[] {
  const { before, after } = sidesText(change)
  const why = change.why ? ` <br>${escaped(change.why)}` : ''
  return [code(change.path) + why, code(before), code(after), remarksOf(change).map(escaped).join(', '), change.impact]
}

function renames({ renames: renamed }: StageDiff): string[] {
  if (renamed.length === 0) return []
  return ['', '### Renamed, value unchanged', '', ...renamed.map(({ before, after }) => `- ${code(before)} → ${code(after)}`)]
}

function consequences(diff: StageDiff): string[] {
  const notable = notableConsequences(diff)
  if (notable.length === 0) return []
  return section(
    'What follows',
    ['', 'before → after', ''],
    notable.map((entry) => [entry.name, escaped(derivedText(entry)), escaped(entry.note ?? '')]),
  )
}

function findings(found: readonly Finding[]): string[] {
  if (found.length === 0) return []
  return [
    '',
    '### Findings',
    '',
    ...found.map(({ severity, rule, message, hint }) => `- **${severity}** ${code(rule)}: ${escaped(message)} — ${escaped(hint)}`),
  ]
}

function summary(diff: StageDiff): string[] {
  const plain = paintFor({ write: () => undefined }, {})
  return summaryLines(diff, { paint: plain, columns: 400 }).map((line, place) => (place === 0 ? line : `\n${line}`))
}

function row(cells: readonly string[]): string {
  return `| ${cells.join(' | ')} |`
}

/** Code that survives a table cell, whatever it holds. */
function code(text: string): string {
  const fence = text.includes('`') ? '``' : '`'
  return `${fence}${fence === '``' ? ' ' : ''}${text.replaceAll('|', '\\|').replaceAll('\n', ' ')}${fence === '``' ? ' ' : ''}${fence}`
}

function escaped(text: string): string {
  return text.replace(/[\\`*_{}[\]<>|]/g, '\\$&').replaceAll('\n', ' ')
}
