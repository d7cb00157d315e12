import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { Mark } from '../../src/runs/watch/details.ts'
import { groupedMarks, markKinds, markLabel } from '../../src/web/page/marks.ts'

const mark = (kind: Mark['kind'], step: number, at: number | null = step): Mark => ({ kind, step, at, text: `${kind} of ${step}` })
const view = { from: 0, to: 1000 }

test('marks too close for a finger are one sign that looks like the one that most needs to be seen', () => {
  const groups = groupedMarks([mark('checkpoint', 100), mark('incident', 101), mark('phase', 900)], view, 500)
  expect(groups).toMatchObject([
    { left: 50, kind: 'incident', marks: [{ step: 100 }, { step: 101 }] },
    { left: 450, kind: 'phase' },
  ])
  expect(groups.map(markLabel)).toEqual(['steps 100 to 101: 1 × incident, 1 × checkpoint', 'step 900, phase: phase of 900'])
  expect(groupedMarks([mark('checkpoint', 100), mark('incident', 101)], { from: 99, to: 102 }, 500)).toHaveLength(2)
})

test('marks out of view, and those without a place, have no sign; every other is in exactly one, and signs do not overlap', () => {
  const anyMark = fc.record({
    kind: fc.constantFrom(...markKinds.map(([kind]) => kind)),
    step: fc.nat(2000),
    at: fc.option(fc.integer({ min: -500, max: 1500 })),
    text: fc.string(),
  })
  fc.assert(
    fc.property(fc.array(anyMark, { maxLength: 300 }), fc.integer({ min: 1, max: 3000 }), (marks, width) => {
      const groups = groupedMarks(marks, view, width)
      const inView = marks.filter(({ at }) => at !== null && at >= 0 && at <= 1000)
      expect(new Set(groups.flatMap((group) => group.marks))).toEqual(new Set(inView))
      expect(groups.flatMap((group) => group.marks)).toHaveLength(inView.length)
      groups.slice(1).forEach(({ left }, place) => {
        expect(left - (groups[place]?.left ?? 0)).toBeGreaterThanOrEqual(18)
      })
    }),
  )
})
