import { expect, test } from 'vitest'
import { deltaText, quantityText, ratioText, unitText, valueText } from '../../../src/domain/stage/value-text.ts'

test.each([
  [0.0001, '1e-4'],
  [2.5e-5, '2.5e-5'],
  [1e-3, '1e-3'],
  [0.01, '0.01'],
  [0, '0'],
  [1000000, '1000000'],
  [null, 'null'],
  [undefined, 'unset'],
  ['v-prediction', 'v-prediction'],
  ['true', '"true"'],
  ['3', '"3"'],
  ['50%', '50%'],
  ['', '""'],
  ['a b', '"a b"'],
  ['\u001b[31mred', '"\\u001b[31mred"'],
  [['all', '-norms'], '[all, -norms]'],
  [{ a: 1, b: [2] }, '{a: 1, b: [2]}'],
])('%j is shown as %s', (value, text) => {
  expect(valueText(value)).toBe(text)
})

test('units take a plural where they are words', () => {
  expect([unitText('frame', 1), unitText('frame', 9), unitText('px', 9), unitText('frame/s', 24), unitText(undefined, 2)]).toEqual([
    'frame',
    'frames',
    'px',
    'frames/s',
    '',
  ])
})

test('quantities are short', () => {
  expect([
    quantityText(2771981600),
    quantityText(1 / 3),
    ratioText(2 / 3),
    ratioText(1e-3),
    deltaText(-4, 'frame'),
    deltaText(1, 'step'),
  ]).toEqual(['2,771,981,600', '0.3333', '×0.667', '×1e-3', '−4 frames', '+1 step'])
})
