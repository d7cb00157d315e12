import { describe, expect, test } from 'vitest'
import { firstStageGates, type HeldOut, secondStageGates, vaeGates } from '../../src/domain/gates.ts'

const measured = (loss: number, more: Partial<HeldOut> = {}): HeldOut => ({ step: 0, raw: { loss: 9 }, ema: { loss }, ...more })
const names = (gates: { name: string; passed: boolean }[], passed: boolean) =>
  gates.filter((gate) => gate.passed === passed).map((gate) => gate.name)

describe('the gates of the quickstart', () => {
  test('an autoencoder that only learnt mean colours does not pass', () => {
    const first = measured(1, { ema: { loss: 1, psnr: 8 } })
    const last = measured(1, { ema: { loss: 1, psnr: 21 }, meanColourPsnr: 19 })
    expect(names(vaeGates(first, last), false)).toEqual(['reconstruction above mean colour'])
  })

  test('the moving average is judged where one is kept', () => {
    expect(names(firstStageGates(measured(1), measured(0.4, { zero: 1 })), false)).toEqual([])
  })

  test('a measurement that is missing or not a number fails its gate', () => {
    expect(names(firstStageGates(measured(1), measured(Number.NaN, { zero: 1 })), true)).toEqual([])
    expect(names(secondStageGates(measured(1), measured(0.5), measured(1)), false)).toEqual(['swapped captions raise the loss'])
  })

  test('a second stage must beat its own control by a tenth', () => {
    const last = measured(0.5, { swappedCaptions: 0.7 })
    expect(names(secondStageGates(measured(0.7), last, measured(0.55)), false)).toEqual(['held-out loss against the from-scratch control'])
    expect(names(secondStageGates(measured(0.7), last, measured(0.56)), false)).toEqual([])
  })
})
