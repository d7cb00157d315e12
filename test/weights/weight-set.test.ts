import { execFileSync } from 'node:child_process'
import { mkdirSync, symlinkSync, truncateSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { loadPlan } from '../../src/weights/load-plan.ts'
import { moduleTree } from '../../src/weights/module-tree.ts'
import { parseNameMap } from '../../src/weights/name-map.ts'
import { verifyWeights } from '../../src/weights/verify.ts'
import { diffWeights } from '../../src/weights/weight-diff.ts'
import { weightSet } from '../../src/weights/weight-set.ts'
import { float32, type MadeTensor, temporaryFolder, validFile, written } from './made-file.ts'

const words = (dtype: string, ...values: number[]): MadeTensor => ({
  dtype,
  shape: [values.length],
  bytes: new Uint8Array(new Uint16Array(values).buffer),
})

function setOf(tensors: Readonly<Record<string, MadeTensor>>) {
  return weightSet(written(temporaryFolder(), 'w.safetensors', validFile(tensors)))
}

function sharded(weightMap: Readonly<Record<string, string>>, totalSize: unknown): string {
  const folder = temporaryFolder()
  written(folder, 'model-00001-of-00002.safetensors', validFile({ a: float32(1) }))
  written(folder, 'model-00002-of-00002.safetensors', validFile({ b: float32(2, 3) }))
  written(
    folder,
    'model.safetensors.index.json',
    Buffer.from(JSON.stringify({ metadata: { total_size: totalSize }, weight_map: weightMap })),
  )
  return folder
}

const rulesOf = (path: string) => verifyWeights(path).flatMap(({ findings }) => findings.map(({ rule }) => rule))
const [first, second] = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors']

test('shards read as one flat set', () => {
  const folder = sharded({ a: first, b: second }, 12)
  expect(rulesOf(folder)).toEqual([])
  const set = weightSet(folder)
  expect([...set.tensors.keys()]).toEqual(['a', 'b'])
  expect(set.dataBytes).toBe(12)
})

test('an index that its shards contradict is found', () => {
  expect(rulesOf(sharded({ a: second, b: second }, 12))).toEqual(['index-shard-unlisted', 'index-tensor-missing', 'index-total-size'])
  expect(rulesOf(sharded({ a: first, b: first }, 4))).toEqual(['index-shard-unlisted', 'index-tensor-missing'])
  expect(rulesOf(sharded({ a: first }, 4))).toEqual(['index-shard-unlisted'])
  expect(rulesOf(sharded({ a: first, b: second }, 13))).toEqual(['index-total-size'])
  expect(rulesOf(sharded({ a: first, b: second, c: 'model-3.safetensors' }, 12))).toEqual(['index-shard-missing'])
  expect(rulesOf(sharded({ a: first, b: second, c: '../x.safetensors' }, 12))).toEqual(['index-file-name'])
  expect(rulesOf(sharded({ a: first, b: second, c: '%2e%2e%2fx.safetensors' }, 12))).toEqual(['index-file-name'])
  expect(() => weightSet(sharded({ a: second, b: second }, 12))).toThrow('expected the tensor "a" in "model-00002')
})

test('a total size that is no whole number, and a shard that is no file, are found beside everything else', () => {
  for (const size of ['12', -1, 1.5, null, true]) expect(rulesOf(sharded({ a: first, b: second }, size))).toEqual(['index-total-size'])
  const folder = sharded({ a: first, b: second, c: 'c.safetensors' }, 12)
  mkdirSync(join(folder, 'c.safetensors'))
  expect(rulesOf(folder)).toEqual(['index-shard-missing'])
})

test('a name of any number of dots costs no more than one of a few', () => {
  const name = 'a.'.repeat(200_000)
  const [a, b] = [setOf({ [name]: float32(1) }), setOf({ [name]: float32(2) })]
  expect(diffWeights(a, b).changes).toHaveLength(1)
  expect(moduleTree(a, 1_000_000).tensors).toBe(1)
})

test('an index with a field twice, or too large to be one, is refused and not read', () => {
  const folder = temporaryFolder()
  const index = written(folder, 'model.safetensors.index.json', Buffer.from('{"weight_map":{},"weight_map":{}}'))
  expect(rulesOf(folder)).toEqual(['name-duplicate'])
  truncateSync(index, 10 * 2 ** 30)
  expect(rulesOf(folder)).toEqual(['index-json'])
  expect(() => weightSet(folder)).toThrow('expected an index of at most 100000000 bytes, got 10737418240')
})

test('pipes, loops, devices and files where folders belong are refused at once', () => {
  const folder = temporaryFolder()
  const pipe = join(folder, 'pipe.safetensors')
  execFileSync('mkfifo', [pipe])
  const loop = join(folder, 'loop.safetensors')
  symlinkSync(loop, loop)
  for (const path of [pipe, loop, '/dev/zero', '/proc/self/mem'])
    expect(() => verifyWeights(path)).toThrow(expect.objectContaining({ code: 'WEIGHTS_UNREADABLE' }))
  for (const name of ['checkpoints', 'model', 'model_ema']) {
    const other = temporaryFolder()
    written(other, name, Buffer.from('x'))
    expect(() => verifyWeights(other)).toThrow(expect.objectContaining({ code: 'WEIGHTS_NONE' }))
  }
})

test('a checkpoint gives its moving average unless raw weights are asked for', () => {
  const run = temporaryFolder()
  for (const [part, value] of [
    ['model', 1],
    ['model_ema', 2],
  ] as const) {
    const folder = join(run, 'checkpoints', 'step-00000010', part)
    mkdirSync(folder, { recursive: true })
    written(folder, 'diffusion_pytorch_model.safetensors', validFile({ a: float32(value) }))
  }
  expect(weightSet(run).path).toMatch(/model_ema\/diffusion_pytorch_model\.safetensors$/)
  expect(weightSet(join(run, 'checkpoints/step-00000010'), 'raw').path).toMatch(/model\/diffusion/)
  expect(() => weightSet(temporaryFolder())).toThrow('expected safetensors weights, got none')
})

test('the same weights in another file order are the same', () => {
  const [a, b] = [float32(1, 2), float32(3)]
  expect(diffWeights(setOf({ a, b }), setOf({ b, a }))).toMatchObject({ same: 2, changes: [] })
})

test('numbers say how far changed tensors are apart, module by module', () => {
  const a = setOf({ 'm.x': float32(3, 4), 'm.y': float32(1), z: float32(1) })
  const b = setOf({ 'm.x': float32(3, 4.5), 'm.y': float32(1), z: float32(1) })
  const { same, changes, modules } = diffWeights(a, b)
  expect(same).toBe(2)
  expect(changes).toMatchObject([{ kind: 'changed', name: 'm.x', distance: { maxAbs: 0.5, relativeL2: 0.1, changed: 1, nonFinite: 0 } }])
  expect(modules.map(({ module, tensors, changedTensors }) => [module, tensors, changedTensors])).toEqual([
    ['', 3, 1],
    ['m', 2, 1],
  ])
})

test('not-a-number, infinities and other dtypes are told apart from equal values', () => {
  const a = setOf({
    nan: float32(Number.NaN, 1),
    inf: float32(Number.POSITIVE_INFINITY),
    half: words('F16', 0x3c00, 0xc000),
    brain: words('BF16', 0x3f80),
  })
  const b = setOf({
    nan: float32(Number.NaN, 2),
    inf: float32(Number.NEGATIVE_INFINITY),
    half: float32(1, -2),
    brain: words('BF16', 0x4000),
  })
  const distances = diffWeights(a, b).changes.map((change) => [change.name, change.kind === 'changed' && change.distance])
  expect(Object.fromEntries(distances)).toEqual({
    nan: { maxAbs: 1, relativeL2: 1, changed: 1, nonFinite: 0 },
    inf: { maxAbs: 0, relativeL2: 0, changed: 1, nonFinite: 1 },
    half: { maxAbs: 0, relativeL2: 0, changed: 0, nonFinite: 0 },
    brain: { maxAbs: 1, relativeL2: 1, changed: 1, nonFinite: 0 },
  })
})

test('values beyond one block are compared too', () => {
  const values = (last: number) => new Float32Array(1_200_000).fill(1).fill(last, 1_199_994)
  const many = (last: number) => ({ dtype: 'F32', shape: [1_200_000], bytes: new Uint8Array(values(last).buffer) })
  const { changes } = diffWeights(setOf({ a: many(1) }), setOf({ a: many(3) }))
  expect(changes).toMatchObject([{ distance: { maxAbs: 2, changed: 6 } }])
})

test('maps rename by prefix or by pattern, and two tensors never share a name', () => {
  const a = setOf({ 'module.blocks.0.w': float32(1) })
  const b = setOf({ 'layers.0.w': float32(1) })
  const map = [parseNameMap('/^module\\.blocks\\.(\\d+)/=layers.$1')]
  expect(diffWeights(a, b).changes.map(({ kind }) => kind)).toEqual(['only-b', 'only-a'])
  expect(diffWeights(a, b, map).same).toBe(1)
  expect(diffWeights(a, setOf({ 'blocks.0.w': float32(1) }), [parseNameMap('module.=')]).same).toBe(1)
  expect(() => diffWeights(setOf({ ax: float32(1), bx: float32(1) }), b, [parseNameMap('/^./=')])).toThrow(
    'two tensors would be called "x"',
  )
})

test('the tree sums parameters, bytes and dtypes in every module', () => {
  const tree = moduleTree(setOf({ 'm.x': float32(1, 2), 'm.y': words('BF16', 1), z: float32(1) }))
  expect(tree).toMatchObject({ tensors: 3, parameters: 4, bytes: 14, dtypes: { F32: 12, BF16: 2 } })
  expect(tree.children[0]).toMatchObject({ name: 'm', tensors: 2, bytes: 10, children: [{ name: 'm.x', shape: [2] }, { name: 'm.y' }] })
})

test('a load plan refuses what is not exact and not accepted', () => {
  const wanted = new Map([
    ['a', [2, 3]],
    ['b.w', [4]],
    ['c', [10]],
  ])
  const available = new Map([
    ['a', [2, 3]],
    ['b.w', [5]],
    ['old.x', [1]],
  ])
  const strict = loadPlan(wanted, available)
  expect(strict).toMatchObject({ exact: ['a'], percentExact: 30, refused: ['b.w', 'c', 'old.x'] })
  const accepted = loadPlan(wanted, available, ['reshaped:b.*', 'missing:?', 'unexpected:old.*', 'missing:zzz'])
  expect(accepted).toMatchObject({
    refused: [],
    unused: ['missing:zzz'],
    reshaped: [{ wanted: [4], available: [5], acceptedBy: 'reshaped:b.*' }],
  })
  expect(() => loadPlan(wanted, available, ['lost:x'])).toThrow('expected missing:GLOB')
  expect(loadPlan(new Map(), new Map()).percentExact).toBe(100)
})

test('a glob of many stars ends at once', () => {
  const name = 'a'.repeat(5000)
  expect(loadPlan(new Map([[name, [1]]]), new Map(), [`missing:${'*a'.repeat(200)}b`]).refused).toHaveLength(1)
})
