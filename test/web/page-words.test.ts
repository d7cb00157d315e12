import { expect, test } from 'vitest'
import { differing } from '../../src/web/page/differing.ts'
import { readout } from '../../src/web/page/lines.ts'
import { brief, columnWords, howMany } from '../../src/web/page/words.ts'

test('numbers keep four digits whatever their size', () => {
  expect([0.008503, 0.29024, 1234.56, 57_891, 3e-4, 2.5e7, 0, Number.NaN].map(brief)).toEqual([
    '0.008503',
    '0.2902',
    '1,235',
    '57,890',
    '3e-4',
    '2.5e7',
    '0',
    'NaN',
  ])
  expect([9360, 2_232_000, 2.77e9].map(howMany)).toEqual(['9,360', '2.23 M', '2.77 B'])
  expect([5.4e8, 7e10].map((value) => columnWords('memoryBytes').valueText?.(value))).toEqual(['515 MiB', '65.19 GiB'])
})

test('who points at a curve reads the nearest point of each line, and where that is if it lies elsewhere', () => {
  const lines = [
    { label: 'loss', x: [1, 2, 3], y: [0.5, 0.25, 0.125], colour: '' },
    { label: 'held-out', x: [0, 100], y: [1, 2], colour: '' },
    { label: 'none', x: [], y: [], colour: '' },
  ]
  expect(readout(lines, 2.2, String)).toBe('2: loss 0.25 · held-out 1 (0)')
  expect(readout(lines, 99, String)).toBe('100: loss 0.125 (3) · held-out 2')
  expect(readout([], 1, String)).toBe('')
})

test('what differs in several stages is one table, with the first one’s value where a run has the same', () => {
  const change = (path: string, before: unknown, after: unknown) => ({ path, group: 'optimiser', impact: 'live', before, after })
  const rows = differing([
    { changes: [change('steps', 10, 20)], derived: [{ name: 'samples seen', before: 1, after: 1 }] },
    { changes: [change('learningRate', 1, 2)], derived: [] },
  ] as never)
  expect(rows).toEqual([
    { group: 'optimiser', name: 'steps', costs: 'live', values: [10, 20, 10] },
    { group: 'optimiser', name: 'learningRate', costs: 'live', values: [1, 1, 2] },
  ])
})
