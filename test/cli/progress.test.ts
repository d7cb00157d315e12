import { describe, expect, test, vi } from 'vitest'
import { LossCurve } from '../../src/cli/loss-curve.ts'
import { brief, duration, sparkline } from '../../src/cli/progress.ts'
import { Progress } from '../../src/cli/run-progress.ts'
import { columnsOf, paintFor } from '../../src/cli/terminal.ts'
import type { TrainerEvent } from '../../src/domain/protocol.ts'

test.each([
  [[], 10, ''],
  [[1, 2, 3, 4, 5, 6, 7, 8], 8, '▁▂▃▄▅▆▇█'],
  [[8, 1], 8, '█▁'],
  [[3, 3, 3], 8, '▁▁▁'],
  [[1, 1, 8, 8], 2, '▁█'],
  [[1, Number.NaN, 8], 8, '▁ █'],
  [[Number.NaN, Number.POSITIVE_INFINITY], 8, '  '],
  [[1, 2], 0, ''],
  [[1, 2], -3, ''],
])('%j in %i columns is drawn as “%s”', (values, width, line) => {
  expect(sparkline(values, width)).toBe(line)
})

test.each([
  [0, '0 s'],
  [-5, '0 s'],
  [59.6, '1 min 0 s'],
  [200, '3 min 20 s'],
  [3599, '59 min 59 s'],
  [18_720, '5 h 12 min'],
  [Number.NaN, '–'],
  [Number.POSITIVE_INFINITY, '–'],
])('%d seconds are %s', (seconds, text) => {
  expect(duration(seconds)).toBe(text)
})

test.each([
  [undefined, '–'],
  [0, '0'],
  [0.012345, '0.01235'],
  [12.3, '12.3'],
  [1.2e-5, '1.2e-5'],
  [-0.0001, '-1e-4'],
  [100_000, '1e+5'],
  [1234.5678, '1235'],
  [Number.NaN, 'NaN'],
  [Number.POSITIVE_INFINITY, 'Infinity'],
])('%d is written %s', (value, text) => {
  expect(brief(value)).toBe(text)
})

type Body = { event: TrainerEvent['event'] } & Record<string, unknown>
const step = (number: number, loss: number) => ({ event: 'step', step: number, loss, learningRate: 1e-4, secondsPerStep: 0.5 }) as const

function shown(options: { columns?: number }, bodies: readonly Body[]): string {
  let text = ''
  const { columns } = options
  const out = { write: (more: string) => (text += more), isTTY: columns !== undefined, columns }
  const progress = new Progress(out, paintFor(out, {}), 'vae')
  for (const body of bodies) progress.add({ attempt: 1, event: { seq: 0, ts: 0, attempt: 1, ...body } as unknown as TrainerEvent })
  progress.end()
  return text
}

/** The lines of the last drawing: what came after the cursor went up for the last time. */
const lastView = (columns: number, bodies: readonly Body[]) =>
  (
    shown({ columns }, bodies)
      // biome-ignore lint/suspicious/noControlCharactersInRegex: cursor codes start with one
      .split(/\u001b\[\d+A/)
      .at(-1) ?? ''
  )
    .trimEnd()
    .split('\n')
    // biome-ignore lint/suspicious/noControlCharactersInRegex: colour and cursor codes start with one
    .map((line) => line.replace(/\r|\u001b\[\d*[A-Za-z]/g, ''))

describe('on a terminal', () => {
  test('the view tells step, loss, held-out loss, learning rate, speed, the time left and the curve', () => {
    const bodies = [
      { event: 'started', step: 0, steps: 10 },
      step(1, 8),
      { event: 'heldOut', step: 1, raw: { loss: 3 }, ema: { loss: 2, psnr: 21.26 } },
      step(2, 1),
      { event: 'checkpoint', step: 2, path: 'x', bytes: 1, sha256: 'x', seconds: 1 },
    ] as const
    expect(lastView(100, bodies)).toEqual([
      'vae  ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━ 2/10  4 s left',
      '  loss 7.65   held-out 2 (21.3 dB)   lr 1e-4   2 steps/s',
      '         8 ━ ',
      '             ',
      '             ',
      '             ',
      '             ',
      '         1 ◆━',
      '  checkpoint at step 2',
    ])
  })

  test('steps that are done again are drawn once', () => {
    const bodies = [
      { event: 'started', step: 0, steps: 10 },
      step(1, 8),
      step(2, 4),
      step(3, 1),
      { event: 'started', step: 1, steps: 10 },
      step(2, 1),
    ]
    const curve = ['         8 ━ ', ...new Array(4).fill('             '), '         1  ━']
    expect(lastView(100, bodies as Body[]).slice(2, 8)).toEqual(curve)
    expect(lastView(100, [{ event: 'started', step: 0, steps: 10 }, step(1, 8), step(2, 4), step(2, 1)]).slice(2, 8)).toEqual(curve)
  })

  test('no line is wider than the terminal, however narrow, and nothing in it is obeyed', () => {
    const evil = { event: 'incident', step: 1, kind: 'x', message: `bad\u001b[2J\n${'y'.repeat(200)}`, action: 'rolled back' }
    for (const columns of [10, 38, 60, 200]) {
      const view = lastView(columns, [{ event: 'started', step: 0, steps: 10 }, step(1, 8), evil as Body])
      expect(view).toHaveLength(3)
      for (const line of view) expect(columnsOf(line)).toBeLessThanOrEqual(columns)
    }
  })

  test('fewer steps than are done already, by a live change, end the bar and no more', () => {
    const set = { event: 'command', id: 'a', name: 'set', path: 'steps', step: 4, status: 'applied', effective: 2 } as const
    const view = lastView(100, [{ event: 'started', step: 0, steps: 10 }, step(1, 1), step(2, 1), step(3, 1), set])
    expect(view[0]).toContain(' 3/2  0 s left')
    expect(view.at(-1)).toBe('  set steps applied from step 4: 2')
  })

  test('step time, memory, incidents, gradient and the last sample have their place', () => {
    const rich = { ...step(1, 8), gradientNorm: 0.5, memoryBytes: 2 ** 31, split: { forward: 0.3, backward: 0.6, data: 0.1 } }
    const incident = { event: 'incident', step: 2, kind: 'spike', message: 'loss 50', action: 'noted' } as const
    const sample = { event: 'sample', step: 2, path: 'samples/a.mp4', prompt: 'a cat', weights: 'ema' } as const
    const view = lastView(100, [{ event: 'started', step: 0, steps: 10 }, rich, step(2, 1), incident, sample])
    expect(view[1]).toBe('  loss 7.65   held-out –   lr 1e-4   2 steps/s   1 incident')
    expect(view[2]).toBe('  ██████████████▓▓▓▓▓▓▓▒▒ backward 60 % · forward 30 % · data 10 %')
    expect(view.at(-2)).toBe('  last sample samples/a.mp4, a cat')
    expect(lastView(100, [{ event: 'started', step: 0, steps: 10 }, rich])[1]).toContain('gradient 0.5   2 steps/s   memory 2.0 GiB')
  })

  test('a view that becomes shorter leaves nothing behind', () => {
    let now = 0
    vi.spyOn(performance, 'now').mockImplementation(() => {
      now += 1000
      return now
    })
    const text = shown({ columns: 100 }, [
      { event: 'started', step: 0, steps: 10 },
      step(1, 8),
      step(2, 4),
      { event: 'started', step: 0, steps: 10 },
    ])
    expect(text).toContain('\u001b[0J')
    vi.restoreAllMocks()
  })

  test('a million steps are drawn with their band in bounded time and memory', () => {
    const curve = new LossCurve()
    for (let at = 1; at <= 1_000_000; at += 1) curve.add(at, 1 + 1 / Math.sqrt(at) + (at % 7) / 20)
    curve.measure(500_000, 1.2)
    const plain = paintFor({ write: () => undefined }, {})
    const lines = curve.lines(80, 6, plain, brief)
    expect(lines).toHaveLength(6)
    expect(lines.join('')).toContain('◆')
    expect(lines.join('')).toMatch(/░.*━/)
    for (const line of lines) expect(columnsOf(line)).toBeLessThanOrEqual(80)
    curve.goTo(0)
    expect(curve.lines(80, 6, plain, brief)).toEqual([])
  })

  test('a loss that is no number is shown, and forgotten by the next', () => {
    const begin = [{ event: 'started', step: 0, steps: 10 }, step(1, 8), step(2, Number.NaN)] as const
    expect(lastView(100, begin)[1]).toContain('loss NaN')
    expect(lastView(100, [...begin, step(3, 4)])[1]).toContain('loss 4 ')
  })
})

test('in a pipe a line comes at each fifty steps, again after a run went back, and for each event', () => {
  const steps = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, index) => step(from + index, 1))
  const bodies = [
    { event: 'started', step: 0, steps: 200 },
    ...steps(1, 110),
    { event: 'started', step: 40, steps: 200 },
    ...steps(41, 100),
  ]
  const text = shown({}, [...(bodies as Body[]), { event: 'sample', step: 100, path: 'samples/a.mp4', prompt: 'x', weights: 'ema' }])
  expect(text.split('\n').map((line) => line.split('  ')[0])).toEqual(['vae 50/200', 'vae 100/200', 'vae 90/200', 'vae 100/200', ''])
  expect(text).toContain('vae 100/200  sample samples/a.mp4\n')
})
