import { expect, test } from 'vitest'
import { incidentLines, incidentsText } from '../../src/cli/incident-text.ts'
import type { IncidentPage } from '../../src/domain/run/incident.ts'

const plain = (text: string) => text
const paint = { bold: plain, dim: plain, red: plain, green: plain, yellow: plain } as Parameters<typeof incidentLines>[1]

const page: IncidentPage = {
  number: 1,
  of: 2,
  incident: {
    seq: 9,
    ts: 0,
    attempt: 1,
    event: 'incident',
    step: 7,
    kind: 'non-finite',
    message: 'expected a finite loss and gradient, got loss nan and gradient norm nan',
    action: 'rolled back to step 4, learning rate × 0.5, the clips in between are skipped',
    severity: 'alert',
    advice: 'look at the clips of this batch',
    source: 'a paper',
    evidence: { quantity: 'loss', from: 7, to: 7, values: [[7, Number.NaN]], expected: null },
    clips: ['clips/a\u001b[31m.mp4', 'clips/b.mp4'],
    modules: { 'blocks.0': 1.5, 'blocks.1': Number.NaN },
    overflows: { 'blocks.1': 64 },
    rolledBackTo: 4,
  },
  followed: { lossBefore: 1, lossAfter: 0.9, steps: 20, next: undefined, end: { reason: 'completed', message: 'all 24 steps are done' } },
}

test('the page names what, the clips, the modules that are no numbers first, what was done and what followed', () => {
  expect(incidentLines(page, paint, 100).join('\n')).toMatchInlineSnapshot(`
    "incident 1 of 2  non-finite at step 7, attempt 1, 1970-01-01T00:00:00.000Z
      expected a finite loss and gradient, got loss nan and gradient norm nan

    what was done
      rolled back to step 4, learning rate × 0.5, the clips in between are skipped

    what followed
      20 steps; mean loss of the first after it 0.9, 1 before
      the run ended: completed – all 24 steps are done

    evidence
      loss, steps 7–7: NaN at 7

    clips of the step
      clips/a\\u{1b}[31m.mp4
      clips/b.mp4

    gradient norm by module, before clipping
      blocks.1  NaN  64 values are no number
      blocks.0  1.5

    what to do
      look at the clips of this batch

      a paper"
  `)
})

test('the newest incidents fit in a line', () => {
  expect(incidentsText([])).toBe('–')
  expect(incidentsText(Array.from({ length: 5 }, () => page.incident))).toMatch(/^5, the last 3: non-finite at step 7, rolled back/)
})
