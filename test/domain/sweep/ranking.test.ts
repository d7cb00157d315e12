import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { SweepEvent } from '../../../src/domain/sweep/journal.ts'
import { rankSweep } from '../../../src/domain/sweep/ranking.ts'
import { foldSweep } from '../../../src/domain/sweep/state.ts'

const line = (event: Record<string, unknown>) => ({ seq: 0, ts: 0, ...event }) as unknown as SweepEvent

/** Events of a point whose seeds came to some losses. */
function point(number: number, losses: readonly number[], besides: Record<string, unknown> = {}): SweepEvent[] {
  const trials = losses.flatMap((value, seed) => {
    const trial = number * losses.length + seed
    return [
      line({ event: 'queued', trial, point: number, seed }),
      line({
        event: 'trialEnded',
        trial,
        state: 'done',
        class: null,
        message: '',
        step: 40,
        value,
        standardError: 0.1,
        deviceSeconds: 1,
        runSeconds: 9 - number,
        steps: 40,
        ...besides,
      }),
    ]
  })
  return [line({ event: 'point', point: number, asked: number, values: { a: number }, infeasible: null, twinOf: null }), ...trials]
}

const pointEvents = (losses: readonly (readonly number[])[]) => losses.flatMap((each, number) => point(number, each))

describe('a ranking', () => {
  test('orders points by their mean over seeds, with intervals from seeds, and says what is noise', () => {
    const { points, best } = rankSweep(
      foldSweep(
        pointEvents([
          [0.5, 0.52, 0.48],
          [0.51, 0.53, 0.49],
          [0.9, 0.92, 0.88],
        ]),
      ),
    )
    expect(best?.point).toBe(0)
    expect(points.map(({ point, rank, isNoise }) => [point, rank, isNoise])).toEqual([
      [0, 1, false],
      [1, 2, true],
      [2, 3, false],
    ])
    // 95 % of Student's t with two degrees of freedom: 4.303 × 0.02 / √3.
    expect(points[0]?.interval).toBeCloseTo(0.04969, 4)
  })

  test('takes the error of the measurement where there is one seed', () => {
    const { points } = rankSweep(foldSweep(pointEvents([[0.5], [0.7], [0.9]])))
    expect(points.map(({ interval, standardError, isNoise }) => [interval, standardError, isNoise])).toEqual([
      [null, 0.1, false],
      [null, 0.1, true],
      [null, 0.1, false],
    ])
  })

  test('finds the cheapest point within one percent of the best', () => {
    const { cheapest, best } = rankSweep(foldSweep(pointEvents([[0.5], [0.504], [0.6]])))
    expect([best?.point, cheapest?.point]).toEqual([0, 1])
  })

  test('is the same in whatever order points ended', () => {
    fc.assert(
      fc.property(
        fc.uniqueArray(fc.double({ min: 0.1, max: 9, noNaN: true }), { minLength: 1, maxLength: 8 }),
        fc.infiniteStream(fc.nat()),
        (losses, keys) => {
          const events = losses.map((loss, number) => point(number, [loss]))
          const shuffled = events
            .map((each) => ({ each, key: keys.next().value }))
            .sort((a, b) => a.key - b.key)
            .flatMap(({ each }) => each)
          expect(rankSweep(foldSweep(shuffled)).points.map(({ point }) => point)).toEqual(
            rankSweep(foldSweep(events.flat())).points.map(({ point }) => point),
          )
        },
      ),
    )
  })
})

describe('the fold of a sweep', () => {
  test('takes a line that stands there twice once', () => {
    const events = pointEvents([[0.5], [0.7]])
    const report = line({ event: 'report', trial: 0, step: 5, value: 1, standardError: null, prune: false, reason: null, compared: [] })
    const once = foldSweep([...events, report])
    expect(foldSweep([...events, ...events, report, report])).toEqual(once)
  })
})
