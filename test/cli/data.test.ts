import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { hitRate } from '../../src/cli/data-cache-run.ts'
import { clipsIn, programIn } from './program.ts'

const recipe = `
formatVersion: 1
name: small
stages:
  - name: t2v
    kind: text-to-video
    steps: 4
    shape: { frames: 9, height: 32, width: 32 }
    data: { fps: 8, cache: latents, source: clips, heldOutClips: 2, workers: 0, cacheFolder: elsewhere }
    batch: { perDevice: 2 }
    vae: { weights: random, latentChannels: 4, baseChannels: 4, encoderFlowChannels: 4, decoderFlowChannels: 4, residualBlocks: 1, connectLayers: 1, attention: false }
    text: { encoder: bytes, maxLength: 16 }
    model: { layers: 2, heads: 1, headDim: 24, textChannels: 16, sparseN: 2, sparseBlocks: [1] }
    memory: { device: cpu, precision: fp32, threads: 1 }
`
vi.setConfig({ testTimeout: 120_000, hookTimeout: 60_000 })

let folder = ''

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'stagewright-data-'))
  writeFileSync(join(folder, 'r.yaml'), recipe)
  clipsIn(join(folder, 'clips'), 6)
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const run = (...args: string[]) => programIn(folder, ...args)

test('the annotation of a folder is written and says which files lack something', () => {
  const plain = join(folder, 'plain')
  mkdirSync(plain)
  writeFileSync(join(plain, 'broken.mp4'), 'no video')
  const clip = readdirSync(join(folder, 'clips/clips')).find((name) => name.endsWith('.mp4'))
  copyFileSync(join(folder, 'clips/clips', clip ?? ''), join(plain, 'ok.mp4'))
  const annotation = join(plain, 'annotation.json')
  expect(run('data', 'init', 'plain').out.split('\n')).toEqual([
    `1 clip measured: ${annotation}, listed by ${join(plain, 'merge_data.txt')}`,
    '1 without a caption (a .txt beside the clip):',
    '  ok.mp4',
    '1 left out, no video or image can be read from them:',
    '  broken.mp4',
    '',
  ])
  expect(JSON.parse(run('data', 'init', 'plain', '--json').out)).toMatchObject({ formatVersion: 1, annotation, unreadable: ['broken.mp4'] })
})

describe('a cache', () => {
  test('is filled once, where it is put, and named by the plan and with what is stale', () => {
    const filled = JSON.parse(run('data', 'cache', 'r.yaml#t2v', '--json').out)
    expect(filled).toMatchObject({ formatVersion: 1, latents: { wanted: 4, found: 0, made: 4, damaged: [], refused: [] } })
    expect(readdirSync(filled.latents.folder)).toContain('cache.json')
    expect(filled.latents.folder).toContain(join(folder, 'elsewhere'))
    expect(run('plan', 'r.yaml#t2v').out).toMatch(/cache +latents 4 of 4 kept \(100 %\)/)
    const clips = readdirSync(join(folder, 'clips/clips'))
      .filter((name) => name.endsWith('.mp4'))
      .map((name) => join(folder, 'clips/clips', name))
    for (const clip of clips) writeFileSync(clip, Buffer.concat([readFileSync(clip), Buffer.from('free')]))
    const { code, out, err } = run('data', 'show', 'r.yaml#t2v')
    expect({ code, err }).toEqual({ code: 0, err: '' })
    expect(out).toContain('latents: 0 of 4 kept (0 %)')
    expect(out.match(/stale .*mp4: it has changed; its kept encoding is not used/g)).toHaveLength(4)
  })

  test('of a stage that keeps nothing is refused', () => {
    const { code, err } = run('data', 'cache', 'r.yaml#t2v', '--set', 'data.cache=off')
    expect(code).toBe(2)
    expect(err).toContain('expected what to keep, got off [CACHE_OFF]')
  })
})

test('a hit rate says of how many it was seen and never rounds up to all', () => {
  const coverage = { folder: '', entries: 0, bytes: 0, wanted: 100_000, lookedAt: 10_000, found: 9999, unread: 3, stale: [] }
  expect(hitRate(coverage)).toBe('9999 of 10000 kept (99.99 %), seen on 10000 of 100000, 3 not read yet')
})
