import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { chainTable } from '../../../src/domain/diff/chain.ts'
import { sameValue } from '../../../src/domain/diff/equality.ts'
import { jsonPatch, type PatchOperation } from '../../../src/domain/diff/patch.ts'
import { globalBatch, transformerParameters } from '../../../src/domain/diff/quantities.ts'
import { type DiffOptions, diffStages, isSame, worstImpact } from '../../../src/domain/diff/stage-diff.ts'
import { defaultStage, stageFields } from '../../../src/domain/stage/fields.ts'
import { groups } from '../../../src/domain/stage/metadata.ts'
import type { Origin, StageSide } from '../../../src/domain/stage/origin.ts'
import { type Stage, type StageInput, stageSchema } from '../../../src/domain/stage/schema.ts'

function side(input: Partial<StageInput> = {}, besides: Partial<StageSide> = {}): StageSide {
  const origins = new Map([...stageFields().keys()].map((path) => [path, { layer: 'schema default' } as Origin]))
  return { label: input.name ?? 'a', stage: stageSchema.parse({ name: 'a', ...input }), origins, findings: [], ...besides }
}

function changed(a: Partial<StageInput>, b: Partial<StageInput>, options?: DiffOptions) {
  return diffStages(side(a), side(b), options)
}

/** Sum over the tensors of a published model, one `name shape` a line. */
function parametersIn(name: string): number {
  const text = readFileSync(join(import.meta.dirname, '../../fixtures/keys', `${name}.txt`), 'utf8')
  const shapes = text.split('\n').flatMap((line) => /[[(]([\d, ]+)[\])]/.exec(line)?.[1] ?? [])
  return shapes.reduce(
    (sum, shape) =>
      sum +
      shape
        .split(',')
        .filter((size) => size.trim())
        .reduce((product, size) => product * Number(size), 1),
    0,
  )
}

describe('what counts as a change', () => {
  test('a stage is the same as itself, whatever it is called', () => {
    const diff = changed({ name: 'one' }, { name: 'two' })
    expect(isSame(diff)).toBe(true)
    expect(diff.hidden).toBeGreaterThan(150)
  })

  test('sets have no order, sequences have', () => {
    expect(changed({ trainable: ['a', 'b'] }, { trainable: ['b', 'a'] }).changes).toEqual([])
    expect(changed({ model: { patch: [1, 2, 2] } }, { model: { patch: [2, 1, 2] } }).changes).toHaveLength(1)
  })

  test.each([
    ['1e-4', 0.0001],
    ['2e-05', '2E-5'],
    ['1', 1],
    ['1.0', '1'],
  ])('upstream’s %s is %s', (a, b) => {
    expect(changed({ upstream: { flag: a } }, { upstream: { flag: b } }).changes).toEqual([])
  })

  test('null is not the same as nothing', () => {
    const [change] = changed({ upstream: { flag: null } }, {}).changes
    expect(change).toMatchObject({ path: 'upstream.flag', before: null })
    expect(change).not.toHaveProperty('after')
    expect(sameValue(null, undefined, 'text')).toBe(false)
  })

  test('text that only looks alike is another value', () => {
    expect(sameValue('1.3.0', '1.3', 'text')).toBe(false)
    expect(sameValue('1.30', '1.3', 'path')).toBe(false)
    expect(sameValue('', 0, 'entry')).toBe(false)
    expect(sameValue('0x10', 16, 'entry')).toBe(false)
    expect(sameValue(['1e-4', '2'], [0.0001, 2], 'entry')).toBe(true)
    expect(sameValue(['1', '2'], ['2', '1'], 'entry')).toBe(false)
    expect(sameValue('runs/a/', './runs/a', 'path')).toBe(true)
    expect(sameValue('/', '', 'path')).toBe(false)
  })

  test('any two values are the same in both directions or in neither', () => {
    fc.assert(
      fc.property(fc.jsonValue(), fc.jsonValue(), fc.constantFrom('set', 'sequence', 'path', 'text', 'additive', 'entry'), (a, b, kind) => {
        expect(sameValue(a, b, kind as 'set')).toBe(sameValue(b, a, kind as 'set'))
        expect(sameValue(a, structuredClone(a), kind as 'set')).toBe(true)
      }),
    )
  })
})

describe('how a change is described', () => {
  test('numbers that multiply have a ratio, numbers that add a difference in their unit', () => {
    const { changes } = changed({ learningRate: 1e-4, shape: { frames: 29 } }, { learningRate: 2e-5, shape: { frames: 93 } })
    expect(changes).toMatchObject([
      { path: 'learningRate', ratio: 0.2, impact: 'live', group: 'optimiser', why: expect.stringContaining('smaller steps') },
      { path: 'shape.frames', delta: 64, unit: 'frame', impact: 'stale-cache', group: 'data' },
    ])
  })

  test('a ratio from or to zero is a difference', () => {
    const [change] = changed({ objective: { klWeight: 0 } }, { objective: { klWeight: 1e-6 } }).changes
    expect(change).toMatchObject({ delta: 1e-6 })
    expect(change).not.toHaveProperty('ratio')
  })

  test('a set says what it gained and lost', () => {
    const [change] = changed({ trainable: ['all'] }, { trainable: ['all', '-norms'] }).changes
    expect(change).toMatchObject({ added: ['-norms'], removed: [] })
  })

  test('a record is compared name by name, also where names hold dots', () => {
    const { changes } = changed({ learningRateRatios: { 'blocks.0': 1, b: 2 } }, { learningRateRatios: { 'blocks.0': 0.5, c: 3 } })
    expect(changes.map(({ path, before, after }) => [path, before, after])).toEqual([
      ['learningRateRatios.blocks.0', 1, 0.5],
      ['learningRateRatios.b', 2, undefined],
      ['learningRateRatios.c', undefined, 3],
    ])
  })

  test('changes stand in the order of the checklist, the dearest of a group first', () => {
    const { changes } = changed(
      {},
      { logEvery: 2, model: { layers: 4 }, steps: 3, optimizer: { name: 'sgd' }, init: { weights: 'x' }, memory: { tf32: true } },
    )
    const order = changes.map(({ group }) => groups.indexOf(group))
    expect(order).toEqual(order.toSorted((a, b) => a - b))
    expect(changes.filter(({ group }) => group === 'optimiser').map(({ path }) => path)).toEqual(['optimizer.name', 'steps'])
    expect(worstImpact(changes)).toBe('breaks-weights')
  })

  test('a default that changed between trainer versions is a change and is marked', () => {
    const origins = new Map<string, Origin>([['schedule.warmupSteps', { layer: 'trainer default' }]])
    const [before, after] = [
      side({}, { origins, trainerVersion: 'v1.2.0' }),
      side({ schedule: { warmupSteps: 500 } }, { origins, trainerVersion: 'v1.3.0' }),
    ]
    expect(diffStages(before, after).changes).toMatchObject([
      { path: 'schedule.warmupSteps', defaultChanged: { from: 'v1.2.0', to: 'v1.3.0' } },
    ])
  })

  test('a renamed flag whose value stayed is one line and no change', () => {
    const before = side({}, { flagNames: new Map([['text.encoder', 'text_encoder_name']]) })
    const after = side({}, { flagNames: new Map([['text.encoder', 'text_encoder_name_1']]) })
    const diff = diffStages(before, after)
    expect(diff.renames).toEqual([{ path: 'text.encoder', group: 'data', before: 'text_encoder_name', after: 'text_encoder_name_1' }])
    expect(isSame(diff)).toBe(true)
  })

  test('equal by default is told from equal by choice, in full only', () => {
    const chosen = side({}, { origins: new Map<string, Origin>([['steps', { layer: 'file', file: 'r.yaml', line: 3, column: 5 }]]) })
    expect(diffStages(side(), chosen).chosen).toEqual([])
    const full = diffStages(side(), chosen, { full: true })
    expect(full.chosen.map(({ path }) => path)).toEqual(['steps'])
    expect(full.hidden).toBe(0)
    expect(full.unchanged.length + 1).toBe(diffStages(side(), chosen).hidden)
  })
})

describe('what follows', () => {
  const derived = (a: Partial<StageInput>, b: Partial<StageInput>, options?: DiffOptions) =>
    Object.fromEntries(changed(a, b, options).derived.map((entry) => [entry.name, entry]))

  test('two factors that cancel out are said to', () => {
    const { 'global batch': batch } = derived({ batch: { perDevice: 8, accumulate: 2 } }, { batch: { perDevice: 16, accumulate: 1 } })
    expect(batch).toMatchObject({ before: 16, after: 16, note: '8 × 2 = 16 × 1: global batch unchanged (per device × accumulated)' })
  })

  test('ranks that share a clip do not add clips', () => {
    const shared = stageSchema.parse({ name: 'a', parallel: { processes: 8, sequence: 8, sequenceBatch: 2 } })
    expect(globalBatch(shared)).toBe(2)
    expect(globalBatch({ ...shared, parallel: { ...shared.parallel, sequence: 1 } })).toBe(8)
  })

  test('latents, tokens, samples and seconds of the clip are worked out', () => {
    const after = { shape: { frames: 93, height: 480, width: 640 }, batch: { perDevice: 2 }, steps: 100 } as const
    const entries = derived({}, after, { clips: 1000 })
    expect(entries['latent shape']).toMatchObject({ before: '8×44×80', after: '24×60×80' })
    expect(entries['tokens per clip']).toMatchObject({ before: 8 * 22 * 40, after: 24 * 30 * 40 })
    expect(entries['tokens per step']?.after).toBe(2 * 24 * 30 * 40)
    expect(entries['samples seen']).toMatchObject({ before: 1000, after: 200 })
    expect(entries['steps per epoch']).toMatchObject({ before: 1000, after: 500 })
    expect(entries['clip length']?.after).toBe(93 / 24)
  })

  test('a clip that fills no whole latents has no latent shape', () => {
    expect(derived({}, { shape: { frames: 30 } })['latent shape']).toMatchObject({ after: null })
  })

  test('parameters of the published model are counted as upstream has them', () => {
    const published = defaultStage()
    expect(transformerParameters(published)).toBe(parametersIn('dit_v13_2B_122'))
    expect(transformerParameters({ ...published, kind: 'inpaint' })).toBe(parametersIn('inpaint_v13_2B_122'))
    expect(transformerParameters({ ...published, model: { ...published.model, class: 'UDiT' } })).toBeUndefined()
  })

  test('findings are those of both sides and of the rules, each once', () => {
    const finding = {
      rule: 'init-missing',
      severity: 'warn',
      message: 'm',
      where: { path: 'init.weights' },
      paths: ['init.weights'],
      hint: 'h',
    } as const
    const found = diffStages(side({}, { findings: [finding] }), side(), {
      findingsOf: (stage, parent) => (stage.label === parent?.label ? [finding] : []),
    })
    expect(found.findings).toEqual([finding])
  })
})

describe('the patch', () => {
  /** RFC 6902 for the operations the patch uses. */
  function applied(operations: readonly PatchOperation[], to: unknown): unknown {
    const document = { root: structuredClone(to) }
    for (const operation of operations) {
      const names = [
        'root',
        ...operation.path
          .split('/')
          .slice(1)
          .map((name) => name.replaceAll('~1', '/').replaceAll('~0', '~')),
      ]
      const last = names.pop() ?? ''
      const parent = names.reduce<Record<string, unknown>>((value, name) => value[name] as Record<string, unknown>, document)
      if (operation.op !== 'add') expect(Object.hasOwn(parent, last)).toBe(true)
      if (operation.op === 'remove') delete parent[last]
      else Object.defineProperty(parent, last, { value: operation.value, enumerable: true, configurable: true, writable: true })
    }
    return document.root
  }

  test('applied to A it gives B, for any JSON', () => {
    const value = fc.json({ maxDepth: 4 }).map((text) => JSON.parse(text) as unknown)
    fc.assert(
      fc.property(value, value, (a, b) => {
        expect(applied(jsonPatch(a, b), a)).toEqual(b)
      }),
      { numRuns: 500 },
    )
  })

  test('applied to A it gives B, for stages', () => {
    const settings = fc.record({
      learningRate: fc.double({ min: 1e-9, max: 1, noNaN: true }),
      trainable: fc.array(fc.string({ minLength: 1 }), { minLength: 1 }),
      upstream: fc.dictionary(fc.string(), fc.oneof(fc.string(), fc.integer(), fc.constant(null))),
      name: fc.constantFrom('a', 'b'),
    })
    const stage = settings.map((input) => stageSchema.parse(input))
    fc.assert(
      fc.property(stage, stage, (a: Stage, b: Stage) => {
        const patch = jsonPatch(a, b)
        expect(applied(patch, a)).toEqual(b)
      }),
    )
  })

  test('nothing changed is an empty patch, and a name with a slash is escaped', () => {
    expect(jsonPatch(defaultStage(), defaultStage())).toEqual([])
    expect(jsonPatch({ 'a/b~c': 1 }, {})).toEqual([{ op: 'remove', path: '/a~1b~0c' }])
  })
})

describe('a chain', () => {
  test('has a column per stage and a row per setting that ever changes', () => {
    const table = chainTable([
      side({ name: 'one' }),
      side({ name: 'two', steps: 5 }),
      side({ name: 'three', steps: 5, upstream: { flag: 1 } }),
    ])
    expect(table.stages).toEqual(['one', 'two', 'three'])
    expect(table.rows.map(({ path, values }) => [path, values])).toEqual([
      ['steps', [1000, 5, 5]],
      ['upstream.flag', [undefined, undefined, 1]],
    ])
    expect(table.derived).toEqual([{ name: 'samples seen', unit: 'clip', values: [1000, 5, 5] }])
  })
})
