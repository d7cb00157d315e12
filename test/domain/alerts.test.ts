import { expect, test } from 'vitest'
import { AlertFold, type AlertRule, alertRule } from '../../src/domain/alerts.ts'
import type { RunEvent } from '../../src/domain/run/state.ts'

let seq = 0
const event = (ts: number, body: object) => ({ attempt: 1, event: { seq: seq++, ts, attempt: 1, ...body } }) as unknown as RunEvent
const step = (ts: number, loss: number) => event(ts, { event: 'step', step: ts, loss, learningRate: 1, secondsPerStep: 1 })
const ended = (ts: number, reason: string) =>
  event(ts, { event: 'ended', reason, message: 'why', hint: '', step: 1, exitCode: 0, signal: null, log: null })

function told(rules: object[], events: RunEvent[], silentUntil?: number): string[] {
  const fold = new AlertFold(
    'run',
    rules.map((rule) => alertRule.parse(rule) as AlertRule),
  )
  const alerts = [...events.flatMap((item) => fold.add(item)), ...(silentUntil === undefined ? [] : fold.silence(silentUntil))]
  return alerts.map(({ rule, ts, message }) => `${ts} ${rule}: ${message}`)
}

test('an end is told by its reason, a bad one without being asked', () => {
  const rules = [
    { name: 'bad', on: 'ended' },
    { name: 'done', on: 'ended', reasons: ['completed'] },
  ]
  expect(told(rules, [ended(5, 'completed')])).toEqual(['5 done: completed: why'])
  expect(told(rules, [ended(5, 'lost')])).toEqual(['5 bad: lost: why'])
  expect(told(rules, [ended(5, 'stopped')])).toEqual([])
})

test('a metric must be beyond its limit so often in a row; no number is beyond any', () => {
  const rule = { name: 'high', on: 'metric', metric: 'loss', above: 1, times: 2, cooldownMinutes: 0 }
  expect(told([rule], [step(1, 2), step(2, 0.5), step(3, 2), step(4, 3)])).toEqual(['4 high: loss is 3 at step 4'])
  expect(told([{ ...rule, times: 1 }], [step(1, Number.NaN)])).toEqual(['1 high: loss is NaN at step 1'])
  expect(told([{ name: 'low', on: 'metric', metric: 'loss', below: 1 }], [step(1, 1), step(2, 0.25)])).toEqual([
    '2 low: loss is 0.25 at step 2',
  ])
})

test('a rule that has spoken is quiet until its cooldown is over', () => {
  const rule = { name: 'high', on: 'metric', metric: 'loss', above: 1, cooldownMinutes: 1 }
  expect(told([rule], [step(1, 2), step(30, 2), step(60, 2), step(61, 2)]).map((text) => text.split(' ')[0])).toEqual(['1', '61'])
})

test('silence counts from the last line of a run that has not ended, also when it speaks again', () => {
  const rule = { name: 'silent', on: 'silence', minutes: 10 }
  expect(told([rule], [step(1, 1)], 500)).toEqual([])
  expect(told([rule], [step(1, 1)], 700)).toEqual(['601 silent: nothing heard for 10 min'])
  expect(told([rule], [step(1, 1), step(900, 1)])).toEqual(['601 silent: nothing heard for 10 min'])
  expect(told([rule], [step(1, 1), ended(2, 'completed')], 9000)).toEqual([])
})
