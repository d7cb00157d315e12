/*
 * What the quickstart promises, checked on clips never trained on. The limits are fixed: a recipe may be tuned to meet them,
 * they may not be moved to meet a recipe.
 */

/** One held-out measurement as the journal has it. */
export interface HeldOut {
  readonly step: number
  readonly raw: { readonly loss: number; readonly psnr?: number | null | undefined }
  readonly ema: { readonly loss: number; readonly psnr?: number | null | undefined } | null
  /** Loss of predicting zero. */
  readonly zero?: number | null | undefined
  /** Loss with every caption given to another clip. */
  readonly swappedCaptions?: number | null | undefined
  /** PSNR of painting each clip in its mean colour, in dB. */
  readonly meanColourPsnr?: number | null | undefined
}

export interface Gate {
  readonly name: string
  readonly measured: number
  readonly comparison: '≥' | '≤'
  readonly limit: number
  readonly unit: string
  readonly passed: boolean
}

/** The gates of the video autoencoder: from its first measurement to its last. */
export function vaeGates(first: HeldOut, last: HeldOut): Gate[] {
  const reached = psnrOf(last)
  return [
    atLeast('reconstruction gains', reached - psnrOf(first), 10, 'dB'),
    atLeast('reconstruction reaches', reached, 20, 'dB'),
    atLeast('reconstruction above mean colour', reached - (last.meanColourPsnr ?? first.meanColourPsnr ?? Number.NaN), 3, 'dB'),
  ]
}

/** The gates of a first text-to-video stage. */
export function firstStageGates(first: HeldOut, last: HeldOut): Gate[] {
  return [
    atLeast('held-out loss falls', 100 * (1 - lossOf(last) / lossOf(first)), 50, '%'),
    atLeast('held-out loss below predicting zero', 100 * (1 - lossOf(last) / (last.zero ?? Number.NaN)), 40, '%'),
  ]
}

/** The gates of a stage that fine-tunes another; `control` is the same stage from the parent's own initial weights. */
export function secondStageGates(first: HeldOut, last: HeldOut, control: HeldOut): Gate[] {
  return [
    atLeast('held-out loss falls', 100 * (1 - lossOf(last) / lossOf(first)), 15, '%'),
    atMost('held-out loss against the from-scratch control', lossOf(last) / lossOf(control), 0.9, '×'),
    atLeast('swapped captions raise the loss', (last.swappedCaptions ?? Number.NaN) / lossOf(last), 1.3, '×'),
  ]
}

/** Loss of what would be handed on: the moving average where one is kept. */
export function lossOf(measured: HeldOut): number {
  return (measured.ema ?? measured.raw).loss
}

function psnrOf(measured: HeldOut): number {
  return (measured.ema ?? measured.raw).psnr ?? Number.NaN
}

function atLeast(name: string, measured: number, limit: number, unit: string): Gate {
  return { name, measured, comparison: '≥', limit, unit, passed: measured >= limit }
}

function atMost(name: string, measured: number, limit: number, unit: string): Gate {
  return { name, measured, comparison: '≤', limit, unit, passed: measured <= limit }
}
