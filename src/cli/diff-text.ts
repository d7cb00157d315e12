import { type Change, type Compared, isDefault, type Renaming } from '../domain/diff/change.ts'
import type { Derived } from '../domain/diff/derived.ts'
import { byGroups, type StageDiff, worstImpact } from '../domain/diff/stage-diff.ts'
import type { Impact } from '../domain/stage/metadata.ts'
import type { Finding, Origin } from '../domain/stage/origin.ts'
import { deltaText, quantityText, ratioText, unitText, valueText } from '../domain/stage/value-text.ts'
import { columnsOf, type Paint, padded, printable, wrapped } from './terminal.ts'

export interface TextStyle {
  readonly paint: Paint
  readonly columns: number
}

/** A stage diff for people: changes by group, what follows from them, findings, and a last line that sums up. */
export function diffLines(diff: StageDiff, style: TextStyle): string[] {
  const sections = [
    headLines(diff, style),
    ...groupSections(diff, style),
    derivedLines(diff, style),
    findingLines(diff.findings, style),
    sameLines('The same, chosen on one side and default on the other', diff.chosen, style),
    sameLines('The same', diff.unchanged, style),
    summaryLines(diff, style),
  ]
  return sections.filter((lines) => lines.length > 0).flatMap((lines, place) => (place === 0 ? lines : ['', ...lines]))
}

function headLines({ a, b }: StageDiff, { paint, columns }: TextStyle): string[] {
  const side = ({ label, trainerVersion }: StageDiff['a']) => printable(label) + (trainerVersion ? ` (${trainerVersion})` : '')
  const line = `${side(a)} → ${side(b)}`
  if (columnsOf(line) <= columns) return [paint.bold(line)]
  return [...wrapped(`  ${side(a)}`, columns), ...wrapped(`→ ${side(b)}`, columns)].map(paint.bold)
}

function groupSections({ changes, renames }: StageDiff, style: TextStyle): string[][] {
  const entries = [
    ...changes.map((change) => ({ group: change.group, change })),
    ...renames.map((renaming) => ({ group: renaming.group, renaming })),
  ]
  return byGroups(entries).map(({ group, entries: inside }) => {
    const changed = inside.flatMap((entry) => ('change' in entry ? [entry.change] : []))
    const title = style.paint.bold(`${group.charAt(0).toUpperCase()}${group.slice(1)}`)
    const cost = changed.length > 0 ? `  ${impactText(worstImpact(changed), style.paint)}` : ''
    const pathColumns = Math.min(30, Math.max(0, ...changed.map(({ path }) => columnsOf(path))))
    return [
      title + cost,
      ...inside.flatMap((entry) =>
        'change' in entry ? changeLines(entry.change, pathColumns, style) : renameLines(entry.renaming, style),
      ),
    ]
  })
}

const impactColour: { readonly [I in Impact]: keyof Paint } = {
  none: 'dim',
  live: 'green',
  restart: 'cyan',
  'resets-optimizer': 'yellow',
  'stale-cache': 'yellow',
  'breaks-weights': 'red',
}

function impactText(impact: Impact, paint: Paint): string {
  return paint[impactColour[impact]](impact)
}

function changeLines(change: Change, pathColumns: number, style: TextStyle): string[] {
  const why = change.why ? wrapped(change.why, style.columns - 6).map((text) => style.paint.dim(`      ${text}`)) : []
  return [...valueLines(change, pathColumns, style), ...why]
}

/** One line where it fits; else the remarks below it; else both values below each other. */
function valueLines(change: Change, pathColumns: number, { paint, columns }: TextStyle): string[] {
  const { before, after } = sidesText(change)
  const remarks = remarksOf(change).join(', ')
  const room = columns - change.impact.length - 2
  const withImpact = (line: string) => `${padded(line, room)}  ${impactText(change.impact, paint)}`
  const line = `  ${padded(change.path, pathColumns)}  ${before} → ${after}`
  const whole = remarks === '' ? line : `${line}  ${remarks}`
  if (columnsOf(whole) <= room) return [withImpact(whole)]
  if (columnsOf(line) <= room) return [withImpact(line), ...wrapped(remarks, columns - 6).map((text) => `      ${text}`)]
  return tallLines(change, before, after, remarks, { paint, columns })
}

/** A change whose values do not fit beside each other. */
function tallLines({ path, impact }: Change, before: string, after: string, remarks: string, { paint, columns }: TextStyle): string[] {
  const part = (sign: string, text: string) => wrapped(text, columns - 6).map((line, place) => `    ${place === 0 ? sign : ' '} ${line}`)
  const head = `${padded(`  ${path}`, columns - impact.length - 2)}  ${impactText(impact, paint)}`
  return [head, ...part('−', before).map(paint.red), ...part('+', after).map(paint.green), ...(remarks ? part(' ', remarks) : [])]
}

/** Both values as text, the unit behind the second. */
export function sidesText({ before, after, unit }: Pick<Change, 'before' | 'after' | 'unit'>): { before: string; after: string } {
  const measured = typeof after === 'number' && unit ? ` ${unitText(unit, after)}` : ''
  return { before: valueText(before), after: valueText(after) + measured }
}

/** Ratio, delta, what a set gained and lost, defaults and renamings, each as a short text. */
export function remarksOf(change: Change): string[] {
  const { ratio, delta, unit, added, removed, renamed } = change
  return [
    ...(ratio === undefined ? [] : [ratioText(ratio)]),
    ...(delta === undefined ? [] : [deltaText(delta, unit)]),
    ...(added?.map((member) => `+${valueText(member)}`) ?? []),
    ...(removed?.map((member) => `−${valueText(member)}`) ?? []),
    ...defaultRemark(change),
    ...(renamed ? [`named ${renamed.before} → ${renamed.after}`] : []),
  ]
}

/** Whether a default, and whose, made the change. */
function defaultRemark(change: Change): string[] {
  const { defaultChanged, origin } = change
  if (defaultChanged) return [`default changed ${defaultChanged.from} → ${defaultChanged.to}`]
  if (!isDefault(origin.after) || change.after === undefined) return []
  return ['by default']
}

function renameLines({ before, after }: Renaming, { columns }: TextStyle): string[] {
  return wrapped(`${before} → ${after}, value unchanged`, columns - 2).map((line) => `  ${line}`)
}

/** Consequences that differ, or that stayed though their causes moved. */
export function notableConsequences({ derived }: StageDiff): readonly Derived[] {
  return derived.filter(({ before, after, note }) => before !== after || note !== undefined)
}

export function derivedText({ before, after, unit, ratio }: Derived): string {
  const side = (value: number | string | null) => (value === null ? 'none' : typeof value === 'number' ? quantityText(value) : value)
  const measured = unit ? ` ${unitText(unit, after)}` : ''
  if (before === after) return `${side(after)}${measured}`
  return `${side(before)} → ${side(after)}${measured}${ratio === undefined ? '' : `  ${ratioText(ratio)}`}`
}

function derivedLines(diff: StageDiff, { paint, columns }: TextStyle): string[] {
  const notable = notableConsequences(diff)
  if (notable.length === 0) return []
  const nameColumns = Math.max(...notable.map(({ name }) => columnsOf(name)))
  const lines = notable.flatMap((entry) => {
    const note = entry.note ? wrapped(entry.note, columns - 6).map((text) => paint.dim(`      ${text}`)) : []
    return [`  ${padded(entry.name, nameColumns)}  ${derivedText(entry)}`, ...note]
  })
  return [paint.bold('What follows'), ...lines]
}

const severityColour = { error: 'red', warn: 'yellow', info: 'cyan' } as const

/** Findings, each with its place and what to do. */
export function findingLines(findings: readonly Finding[], { paint, columns }: TextStyle): string[] {
  if (findings.length === 0) return []
  const lines = findings.flatMap(({ rule, severity, message, where, hint }) => {
    const place = 'path' in where ? where.path : `${printable(where.file)}:${where.line}:${where.column}`
    const named = message.startsWith(place) ? '' : ` (${place})`
    const [first = '', ...rest] = wrapped(`${severity} ${rule}: ${printable(message)}${named}`, columns - 4)
    const coloured = first.replace(severity, paint[severityColour[severity]](severity))
    return [
      `  ${coloured}`,
      ...rest.map((line) => `    ${line}`),
      ...wrapped(`hint: ${printable(hint)}`, columns - 6).map((line) => paint.dim(`      ${line}`)),
    ]
  })
  return [paint.bold('Findings'), ...lines]
}

function sameLines(title: string, settings: readonly Compared[], { paint, columns }: TextStyle): string[] {
  if (settings.length === 0) return []
  const lines = settings.flatMap((setting) => {
    const { after } = sidesText(setting)
    const sides = `${originWord(setting.origin.before)} | ${originWord(setting.origin.after)}`
    return wrapped(`${setting.path} ${after} (${sides})`, columns - 4).map((line, place) => (place === 0 ? `  ${line}` : `    ${line}`))
  })
  return [paint.bold(title), ...lines]
}

function originWord(origin: Origin): string {
  return isDefault(origin) ? 'default' : origin.layer
}

/** The last lines: how much changed where, the dearest changes by name, and how much is not shown. */
export function summaryLines(diff: StageDiff, { paint, columns }: TextStyle): string[] {
  const { changes, hidden } = diff
  const rest = hidden > 0 ? `${hidden} unchanged ${hidden === 1 ? 'setting' : 'settings'} hidden (--full shows them)` : 'nothing hidden'
  if (changes.length === 0) return [paint.green('The same settings.'), rest]
  const worst = worstImpact(changes)
  const dearest = changes.filter(({ impact }) => impact === worst).map(({ path }) => path)
  const named = dearest.length > 4 ? `${dearest.slice(0, 4).join(', ')} and ${dearest.length - 4} more` : dearest.join(', ')
  const counts = byGroups(changes).map(({ group, entries }) => `${entries.length} ${group}`)
  const text = `${changes.length} ${changes.length === 1 ? 'change' : 'changes'}: ${counts.join(', ')}.`
  return [...wrapped(text, columns), ...wrapped(`Dearest: ${worst} (${named}).`, columns), rest]
}
