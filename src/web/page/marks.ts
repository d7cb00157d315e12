import type { Mark } from '../../runs/watch/details.ts'

/** Marks that lie so close together on a chart that they are one sign there. */
export interface MarkGroup {
  /** Where the sign stands: pixels from the left edge of the curves. */
  readonly left: number
  readonly marks: readonly Mark[]
  /** What the sign looks like: the kind that most needs to be seen. */
  readonly kind: Mark['kind']
}

/** Signs nearer to each other than a finger is wide are put together. */
const nearestPixels = 18

/** The kinds, the one that most needs to be seen first, with a sign that can be told without its colour, and the word for it. */
export const markKinds: readonly (readonly [Mark['kind'], { readonly sign: string; readonly word: string }])[] = [
  ['incident', { sign: '!', word: 'incident' }],
  ['rollback', { sign: '↶', word: 'roll-back' }],
  ['change', { sign: '◆', word: 'live change' }],
  ['phase', { sign: '▲', word: 'phase' }],
  ['start', { sign: '▶', word: 'continued' }],
  ['command', { sign: '■', word: 'command' }],
  ['checkpoint', { sign: '●', word: 'checkpoint' }],
]
const places = new Map(markKinds.map(([kind], place) => [kind, place]))

/** The marks in view, from left to right, those close together as one. */
export function groupedMarks(marks: readonly Mark[], { from, to }: { from: number; to: number }, width: number): MarkGroup[] {
  const span = to - from || 1
  const placed = marks
    .flatMap((mark) => (mark.at === null || mark.at < from || mark.at > to ? [] : [{ mark, left: ((mark.at - from) / span) * width }]))
    .sort((a, b) => a.left - b.left)
  const groups: { left: number; marks: Mark[] }[] = []
  for (const { mark, left } of placed) {
    const known = groups.at(-1)
    if (known && left - known.left < nearestPixels) known.marks.push(mark)
    else groups.push({ left, marks: [mark] })
  }
  return groups.map((group) => ({ ...group, kind: group.marks.map(({ kind }) => kind).reduce(moreUrgent) }))
}

function moreUrgent(a: Mark['kind'], b: Mark['kind']): Mark['kind'] {
  return (places.get(a) ?? 0) <= (places.get(b) ?? 0) ? a : b
}

export function signOf(kind: Mark['kind']): { readonly sign: string; readonly word: string } {
  return markKinds[places.get(kind) ?? 0]?.[1] ?? { sign: '?', word: kind }
}

/** What a sign says to those who do not see it. */
export function markLabel({ marks }: MarkGroup): string {
  const [first] = marks
  if (first && marks.length === 1) return `step ${first.step.toLocaleString('en')}, ${signOf(first.kind).word}: ${first.text}`
  const counts = markKinds.flatMap(([kind, { word }]) => {
    const count = marks.filter((mark) => mark.kind === kind).length
    return count === 0 ? [] : [`${count} × ${word}`]
  })
  return `steps ${first?.step.toLocaleString('en')} to ${marks.at(-1)?.step.toLocaleString('en')}: ${counts.join(', ')}`
}
