import { expect, test } from 'vitest'
import { autoencoderLines } from '../../src/cli/autoencoder-text.ts'
import { measuredRows } from '../../src/cli/estimate-text.ts'
import { diskText } from '../../src/cli/plan-run.ts'
import type { RunState } from '../../src/domain/run/state.ts'
import { stageSchema } from '../../src/domain/stage/schema.ts'
import type { Estimate, Probe } from '../../src/runs/estimate.ts'

const mib = 2 ** 20
const largest = { clips: 2, frames: 5, height: 32, width: 48 }
const memory = {
  estimated: 100 * mib,
  parts: { weights: 60 * mib, activations: 40 * mib },
  checkpoint: 0,
  process: 300 * mib,
  available: 350 * mib,
}

test('an estimate says whether it fits and what would need less, the dearest last', () => {
  const estimate: Estimate = {
    event: 'estimated',
    largest,
    seconds: { estimated: 0.5 },
    memory: { ...memory, checkpoint: 20 * mib },
    phases: [
      { start: 1, waitsForPlateau: false, bytes: 50 * mib, seconds: 0.25 },
      { start: 0, waitsForPlateau: true, bytes: 100 * mib, seconds: 0.5 },
    ],
    ways: [
      { settings: { 'memory.checkpointing': 'all' }, bytes: 80 * mib, slowdown: 1.3, changesTraining: false },
      { settings: { 'lora.rank': 16 }, bytes: 70 * mib, slowdown: 1, changesTraining: true },
    ],
  }
  expect(measuredRows({ estimate }, 10)).toEqual([
    ['estimate', '420 MiB for 2 × 5×32×48 px, does not fit into the 350 MiB there are; 0.45 to 1 s a step (--probe measures it)'],
    ['', 'weights 60 MiB, activations 40 MiB, a checkpoint being written 20 MiB'],
    ['from step 1', '350 MiB, 0.225 to 0.5 s a step (--probe measures it)'],
    ['at a plateau', '400 MiB, 0.45 to 1 s a step (--probe measures it)'],
    ['to need less', 'memory.checkpointing="all": 380 MiB, about +30 % work'],
    ['', 'lora.rank=16: 370 MiB, about as much work; learns something else'],
  ])
})

test('checkpoints that do not fit on the disk say what makes them fit', () => {
  const disk = { checkpointBytes: 40 * mib, checkpoints: 10, bytes: 400 * mib, freeBytes: 100 * mib }
  expect(diskText(disk, null)).toBe('10 checkpoints of about 40 MiB at once, 400 MiB, and only 100 MiB free: set checkpoint.keepLast')
  expect(diskText(disk, 9)).toContain(': lower checkpoint.keepLast')
  expect(diskText({ ...disk, freeBytes: 70 * mib }, 9)).toContain(': put runs on a larger disk with --runs')
  expect(diskText({ ...disk, freeBytes: 400 * mib }, 9)).toBe('10 checkpoints of about 40 MiB at once; 400 MiB free')
})

test('a probe says what it measured, how far off the estimate was, and what follows', () => {
  const check = { shape: { ...largest, frames: 1 }, predicted: 0.2, measured: 0.25, error: -0.2 }
  const seconds = {
    measured: 1,
    each: [1, 1, 1],
    split: { forward: 0.7, backward: 0.3, data: 0 },
    estimated: 1.5,
    error: 0.5,
    check,
    loading: 0.1,
    perStep: 0.8,
    stage: 80,
  }
  const probe: Probe = {
    event: 'probed',
    largest,
    device: 'cpu',
    threads: 1,
    ranks: 2,
    steps: 3,
    seconds,
    memory: { ...memory, checkpoint: 50 * mib, measured: 80 * mib, error: 20 / 380 },
  }
  expect(measuredRows({ probe }, 100).map(([name, text]) => `${name}|${text}`)).toEqual([
    'probe|3 steps of 2 × 5×32×48 px on 2 ranks (CPU, 1 thread each): 1 s a step (forward 70 %, backward 30 %)',
    '|without it the estimate had said 1.5 s (+50 %); calibrated by it, for 2 × 1×32×48 px it says 0.2 s, measured 0.25 s (−20 %)',
    '|380 MiB at most, estimated 400 MiB (+5 %), of which 300 MiB Python itself; the stage alone 80 MiB',
    '|and 50 MiB while a checkpoint is written',
    'takes|0.8 s a step over its buckets, reading clips (0.1 s of a core) included: 1 min 20 s for 100 steps',
  ])
})

const vae = (weights: string | null, freezeEncoder: boolean) =>
  stageSchema.parse({ name: 'v', kind: 'vae', objective: { name: 'reconstruction' }, init: { weights }, vae: { freezeEncoder } })
const measured = (...psnr: number[]) =>
  ({ heldOut: psnr.map((db, step) => ({ step, raw: { loss: 1, psnr: db - 1 }, ema: { loss: 1, psnr: db } })) }) as unknown as RunState

test('an autoencoder’s end says what it gained over its parent and what no longer fits', () => {
  const lines = autoencoderLines(vae('released.ckpt', false), measured(24.1, 26.75))
  expect(lines[0]).toBe('held-out clips reconstructed: 24.10 dB with released.ckpt, 26.75 dB now (+2.65 dB)')
  expect(lines[1]).toMatch(/no longer those of released\.ckpt: encode caches again/)
  expect(autoencoderLines(vae('released.ckpt', true), measured(24.1, 23.9))).toEqual([
    'held-out clips reconstructed: 24.10 dB with released.ckpt, 23.90 dB now (−0.20 dB)',
  ])
})

test('from random weights nothing is stale, and other kinds of stages say nothing', () => {
  expect(autoencoderLines(vae(null, false), measured(6, 20))).toHaveLength(1)
  expect(autoencoderLines(stageSchema.parse({ name: 't' }), measured(6, 20))).toEqual([])
})
