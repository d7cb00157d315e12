import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { clipsIn, programIn } from './program.ts'

const recipe = `
formatVersion: 1
name: small
stages:
  - name: t2v
    kind: text-to-video
    steps: 2
    shape: { frames: 5, height: 32, width: 32 }
    data: { fps: 8, source: clips, heldOutClips: 2, workers: 0 }
    batch: { perDevice: 2 }
    vae: { weights: random, latentChannels: 4, baseChannels: 4, encoderFlowChannels: 4, decoderFlowChannels: 4, residualBlocks: 1, connectLayers: 1, attention: false }
    text: { encoder: bytes, maxLength: 16 }
    model: { layers: 2, heads: 1, headDim: 24, textChannels: 16, sparseN: 2, sparseBlocks: [1] }
    memory: { device: cpu, precision: fp32, threads: 1 }
    samples: { steps: 2 }
`
vi.setConfig({ testTimeout: 120_000, hookTimeout: 60_000 })

let folder = ''
let clips: string[] = []

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'stagewright-around-'))
  writeFileSync(join(folder, 'r.yaml'), recipe)
  clipsIn(join(folder, 'clips'), 8)
  const media = join(folder, 'clips/clips')
  clips = readdirSync(media)
    .filter((name) => name.endsWith('.mp4'))
    .map((name) => join(media, name))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const run = (...args: string[]) => programIn(folder, ...args)

test('a plan with a probe says what steps took here, what they held, and how long the stage takes', () => {
  const { code, out, err } = run('plan', 'r.yaml#t2v', '--probe', '--json')
  expect({ code, err }).toEqual({ code: 0, err: '' })
  const { probe } = JSON.parse(out).plans[0]
  expect(probe).toMatchObject({ largest: { clips: 2, frames: 5, height: 32, width: 32 }, device: 'cpu', ranks: 1, threads: 1 })
  expect(probe.seconds.each.length).toBeGreaterThanOrEqual(3)
  expect(probe.seconds.loading).toBeGreaterThan(0)
  expect(probe.seconds.stage).toBeCloseTo(2 * probe.seconds.perStep)
  expect(probe.memory.parts.weights).toBeGreaterThan(0)
  expect(probe.memory.checkpoint).toBeGreaterThan(probe.memory.parts.weights)
})

test('files a published stage names and nobody has are told in its plan, which is made without them', () => {
  const { code, out, err } = run('plan', 'r.yaml#t2v', '--set', 'init.weights=nowhere.pt', '--set', 'data.source=gone', '--json')
  expect({ code, err }).toEqual({ code: 1, err: '' })
  const { findings, memory } = JSON.parse(out).plans[0]
  expect(memory.total).toBeGreaterThan(0)
  expect(findings.slice(0, 2)).toMatchObject([
    { rule: 'weights-missing', severity: 'error', message: expect.stringContaining('init.weights: nowhere.pt: expected weights') },
    { rule: 'data-missing', severity: 'error', message: 'data.source: gone: expected a folder or a list file, got nothing there' },
  ])
  const untrainable = run('plan', 'v1.0.0/class-train_imgae')
  expect(untrainable.code).toBe(2)
  expect(untrainable.err).toContain('KIND_UNTRAINABLE')
})

test('a trained run is sampled again from its checkpoint', () => {
  const trained = run('train', 'r.yaml#t2v')
  expect({ code: trained.code, err: trained.err }).toEqual({ code: 0, err: '' })
  const sampled = run('sample', 'latest', '--prompt', 'a red square moves left', '--out', 'videos', '--json')
  expect({ code: sampled.code, err: sampled.err }).toEqual({ code: 0, err: '' })
  expect(JSON.parse(sampled.out)).toMatchObject({ formatVersion: 1, samples: [{ prompt: 'a red square moves left' }] })
  expect(readdirSync(join(folder, 'videos')).filter((name) => name.endsWith('.mp4'))).toHaveLength(1)
})

test('a check that decodes names the clip that cannot be read and answers no', () => {
  const damaged = clips[0] ?? ''
  expect(existsSync(damaged)).toBe(true)
  writeFileSync(damaged, 'no video')
  const { code, out } = run('data', 'check', 'r.yaml#t2v', '--decode', '--json')
  expect(code).toBe(1)
  const { decoded } = JSON.parse(out)
  expect(decoded).toMatchObject({ read: 8, damaged: [{ path: expect.stringContaining(damaged) }] })
})
