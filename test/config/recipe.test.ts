import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type LoadOptions, loadRecipe } from '../../src/config/recipe.ts'
import { UserError } from '../../src/domain/errors.ts'
import { stageFields, valueAt } from '../../src/domain/stage/fields.ts'
import { stageSchema } from '../../src/domain/stage/schema.ts'

/** Loads a recipe out of texts by file name. */
function load(files: Record<string, string | Uint8Array>, options: LoadOptions = {}, file = 'r.yaml') {
  const readFile = (path: string) => {
    const text = files[path]
    if (text === undefined) throw Object.assign(new Error('none'), { code: 'ENOENT' })
    return text
  }
  return loadRecipe(file, { readFile, ...options })
}

/** A recipe of stages written one below the other, the first one on line 4. */
function recipe(...stages: string[]): string {
  return ['formatVersion: 1', 'name: r', 'stages:', ...stages.map((stage) => `  - ${stage}`)].join('\n')
}

function refusal(act: () => unknown): string {
  try {
    act()
  } catch (error) {
    if (error instanceof UserError) return `${error.message} [${error.code}]${error.hint ? `\nhint: ${error.hint}` : ''}`
    throw error
  }
  throw new Error('nothing was refused')
}

describe('layers', () => {
  const files = {
    'r.yaml': `formatVersion: 1
name: r
presets: [p/first.yaml, p/second.yaml]
stages:
  - name: one
    presets: [p/third.yaml]
    ema: { decay: 0.5 }
    learningRate: 4e-4
    trainable: [norms]
  - name: two
    extends: one
    ema: { startStep: 7 }
    notes: changed
`,
    'p/first.yaml':
      'formatVersion: 1\npreset: { steps: 1, learningRate: 1e-4, batch: { perDevice: 1, accumulate: 9 }, learningRateRatios: { a: 1 } }',
    'p/second.yaml': 'formatVersion: 1\npreset: { steps: 2, learningRate: 2e-4, learningRateRatios: { b: 2 } }',
    'p/third.yaml': 'formatVersion: 1\npreset: { steps: 3, ema: { enabled: false } }',
  }

  test('presets win over defaults in their order, the file over presets, and sections merge field by field', () => {
    const [one] = load(files).stages
    expect(one?.stage).toMatchObject({
      steps: 3,
      learningRate: 4e-4,
      batch: { perDevice: 1, accumulate: 9 },
      ema: { decay: 0.5, enabled: false },
    })
  })

  test('lists and records replace what stands below them', () => {
    const [one] = load(files).stages
    expect(one?.stage.trainable).toEqual(['norms'])
    expect(one?.stage.learningRateRatios).toEqual({ b: 2 })
  })

  test('a stage that extends another has its whole chain of settings, but not its name and notes', () => {
    const [one, two] = load(files).stages
    expect(two?.stage).toEqual({ ...one?.stage, name: 'two', notes: 'changed', ema: { ...one?.stage.ema, startStep: 7 } })
    expect(two?.parentName).toBe('one')
  })

  test('a trial wins over the file and --set over a trial', () => {
    const trial = { name: 'trial 3', values: { learningRate: 5e-4, steps: 5 } }
    const [one] = load(files, { trial, set: ['learningRate=6e-4'] }).stages
    expect(one?.stage).toMatchObject({ learningRate: 6e-4, steps: 5 })
    expect(one?.layers.get('learningRate')?.map(({ origin, value }) => [origin.layer, value])).toEqual([
      ['command line', 6e-4],
      ['trial', 5e-4],
      ['file', 4e-4],
      ['preset', 2e-4],
      ['preset', 1e-4],
      ['schema default', 1e-4],
    ])
  })

  test('every value knows its file, line and column', () => {
    const [, two] = load(files).stages
    expect(two?.origins.get('ema.startStep')).toEqual({ layer: 'file', file: 'r.yaml', line: 12, column: 12 })
    expect(two?.origins.get('learningRate')).toEqual({ layer: 'parent stage', file: 'r.yaml', line: 8, column: 5 })
    expect(two?.origins.get('batch.perDevice')).toEqual({ layer: 'parent stage', file: 'p/first.yaml', line: 2, column: 50 })
    expect([...(two?.origins.keys() ?? [])].sort()).toEqual([...stageFields().keys()].sort())
  })

  test('a parent may stand in another file and brings the presets of that file', () => {
    const child = 'formatVersion: 1\nname: c\nstages: [{ name: three, extends: "sub/r.yaml#two", steps: 8 }]'
    const moved = Object.fromEntries(Object.entries(files).map(([name, text]) => [`sub/${name}`, text]))
    const [three] = load({ ...moved, 'c.yaml': child }, {}, 'c.yaml').stages
    expect(three?.stage).toMatchObject({ steps: 8, learningRate: 4e-4, batch: { accumulate: 9 }, ema: { startStep: 7 } })
    expect(three?.layers.get('learningRate')?.[0]?.from).toBe('sub/r.yaml#one')
  })

  test('a complete stage is what the schema makes of it, keys in its order', () => {
    for (const { stage } of load(files, { set: ['phases=[{ at: 50%, trainable: [all] }]'] }).stages) {
      expect(JSON.stringify(stageSchema.parse(stage))).toBe(JSON.stringify(stage))
    }
  })

  test.each([
    [{ stepz: 3 }, 'did you mean `steps`?'],
    [{ steps: 1.5 }, 'trial 3 steps: expected a whole number above 0, got 1.5'],
    [{ 'ema.decay': Number.NaN }, 'expected a number from 0 to 1, got NaN'],
    [{ 'shape.frames': undefined }, 'expected a whole number'],
  ])('a trial of %j is refused', (values, part) => {
    expect(refusal(() => load(files, { trial: { name: 'trial 3', values } }))).toContain(part)
  })

  test('--set reaches every stage, the only one that is asked for, or the one it names', () => {
    const stages = load(files, { set: ['steps=10', 'two:shape={ frames: 5 }'] }).stages
    expect(stages.map(({ stage }) => [stage.steps, stage.shape.frames])).toEqual([
      [10, 29],
      [10, 5],
    ])
    const only = load(files, { set: ['steps=10', 'two:shape={ frames: 5 }'], only: 'one' }).stages
    expect(only.map(({ stage }) => [stage.steps, stage.shape.frames])[0]).toEqual([10, 29])
    expect(only[1]?.stage.steps).not.toBe(10)
  })
})

describe('what a recipe may not say', () => {
  test('an unknown key is refused with its place and the nearest name', () => {
    expect(refusal(() => load({ 'r.yaml': recipe('name: a\n    leaningRate: 1e-4') }))).toMatchInlineSnapshot(`
      "r.yaml:5:5 stages[0].leaningRate: expected a setting, got the unknown key \`leaningRate\` [CONFIG_UNKNOWN_KEY]
      hint: did you mean \`learningRate\`?"
    `)
  })

  test.each([
    ['max_train_steps: 3', 'steps'],
    ['frames: 5', 'shape.frames'],
    ['learning_rate: 1', 'learningRate'],
    ['shape: { frame: 5 }', 'shape.frames'],
    ['extend: a', 'extends'],
    ['watch: { plateau: 2 }', 'incidents.watch'],
  ])('%s: the hint names %s', (line, meant) => {
    expect(refusal(() => load({ 'r.yaml': recipe(`name: a\n    ${line}`) }))).toContain(`did you mean \`${meant}\`?`)
  })

  test.each([
    ['steps: 1.5', '4:5'],
    ['steps: "700"', 'hint: write 700'],
    ['steps: 1_000', 'hint: write 1000'],
    ['ema: { enabled: no }', 'hint: write true or false'],
    ['learningRate: 0', 'expected a number above 0, got 0'],
    ['learningRate: .nan', 'expected a number above 0, got NaN'],
    ['clip: { emaDecay: 2 }', 'expected a number from 0 to 1, got 2'],
    ['kind: text-to-vidoe', 'did you mean `text-to-video`?'],
    ['trainable: all', 'hint: write a list: [all]'],
    ['model: { patch: [1, 2] }', 'expected a list of 3'],
    ['model: { patch: [1, 2, 0] }', 'stages[0].model.patch[2]: expected a whole number from 1 to 1024, got 0'],
    ['shape: 5', 'expected a section with frames'],
    ['shape:', 'got nothing'],
    ['phases: [{ at: 3, trainable: [all], rewarm: 3 }]', 'unknown key `rewarm`'],
    ['objective: { maskRatios: { i2w: 1 } }', 'stages[0].objective.maskRatios'],
    ['init: { accept: ["all"] }', 'stages[0].init.accept[0]'],
    ['seed: 9007199254740993', 'stages[0].seed'],
    ['presets: a.yaml', 'hint: write presets: [FILE.yaml]'],
    ['provenance: 3', 'expected names and values'],
  ])('%s is refused: %s', (line, part) => {
    const message = refusal(() => load({ 'r.yaml': recipe(`name: a\n    ${line}`) }))
    if (/^\d+:\d+$/.test(part)) expect(message).toMatch(/^r\.yaml:5:12 stages\[0\]\.steps: expected a whole number/)
    else expect(message).toContain(part)
    expect(message).toMatch(/^r\.yaml:5:\d+ /)
  })

  test('every mistake of a file is named at once, in the order of the file', () => {
    const message = refusal(() => load({ 'r.yaml': recipe('name: a\n    stepz: 3\n    learningRate: x', 'name: b\n    seed: []') }))
    expect(message.match(/^r\.yaml:\d+:\d+|^hint.*/gm)).toEqual([
      'r.yaml:5:5',
      'r.yaml:6:19',
      'r.yaml:8:11',
      'hint: correct these 3 places',
    ])
  })

  test('numbers with an exponent are numbers', () => {
    const [a] = load({ 'r.yaml': recipe('{ name: a, learningRate: 1e-4, objective: { klWeight: 2E-6 } }') }).stages
    expect([a?.stage.learningRate, a?.stage.objective.klWeight]).toEqual([0.0001, 0.000002])
  })

  test.each([
    ['name: a', 'formatVersion: expected 1, the format of recipes this program reads, got nothing'],
    ['formatVersion: 2\nname: a\nstags: []', 'update it'],
    ['formatVersion: "1"\nname: a', 'write formatVersion: 1'],
    ['formatVersion: 1\nname: a\nstages: []', 'expected a list of at least one stage'],
    ['formatVersion: 1\nname: a\nstage: []', 'did you mean `stages`?'],
    ['formatVersion: 1\nstages: [{ name: a }]', 'name: expected text, got nothing'],
    ['formatVersion: 1\nname: a\nstages: [{ steps: 3 }]', 'every stage needs one'],
    ['formatVersion: 1\nname: a\nstages: [{ name: a }, { name: a }]', 'stages[0] has it already'],
    ['formatVersion: 1\nname: a\nstages: [3]', 'stages[0]: expected a stage'],
    ['- a', 'expected a recipe'],
  ])('%j is refused: %s', (text, part) => {
    expect(refusal(() => load({ 'r.yaml': text }))).toContain(part)
  })
})

describe('YAML', () => {
  const bomb = [
    'a: &a [x, x, x, x, x, x, x, x, x, x]',
    ...'bcdefgh'.split('').map((name, place) => `${name}: &${name} [${Array(10).fill(`*${'abcdefgh'[place]}`)}]`),
  ]
  test.each<[string, string | Uint8Array, string]>([
    ['empty', '', 'got an empty file'],
    ['of comments alone', '# nothing\n', 'got an empty file'],
    ['indented with tabs', 'name:\n\ta: 3', 'indent with spaces'],
    ['binary', new Uint8Array([1, 2, 0, 255]), 'expected UTF-8 text'],
    ['with a control character', 'name: \u0000', 'control character at offset 6'],
    ['huge', 'a'.repeat(2_000_000), 'expected at most 1048576 bytes'],
    ['a bomb of aliases', bomb.join('\n'), 'aliases multiply'],
    ['deep', '['.repeat(5000), 'levels'],
    ['an alias of itself', 'a: &a [*a]', 'levels'],
    ['an alias without anchor', 'a: *b', '1:4'],
    ['with two anchors of one name', 'a: &a 1\nb: &a 2', 'expected each anchor once'],
    ['with a merge key', 'a: &a { b: 1 }\nc: { <<: *a }', 'share settings with `presets` or `extends`'],
    ['with a key twice', 'name: a\nname: b', 'expected each key once, got `name` again'],
    ['with a key of many values', '? [a, b]\n: c', 'expected a name as key'],
    ['with a tag', 'name: !!binary aGk=', 'expected no tag'],
    ['several documents', 'name: a\n---\nname: b', 'multiple documents'],
    ['of YAML 1.1', '%YAML 1.1\n---\nname: a', 'remove the %YAML line'],
    ['with __proto__', '__proto__: { formatVersion: 1 }', 'expected another name'],
    ['unclosed', 'a: [1, 2', 'r.yaml:1:'],
  ])('a file %s is refused', (_, text, part) => {
    const message = refusal(() => load({ 'r.yaml': text }))
    expect(message).toContain(part)
    expect(message).toContain('[CONFIG_YAML]')
  })

  test('an anchor and its alias are allowed, and the value stands where the alias does', () => {
    const [, b] = load({ 'r.yaml': recipe('{ name: a, shape: &s { frames: 5 } }', '{ name: b, shape: *s }') }).stages
    expect(b?.stage.shape.frames).toBe(5)
  })

  test('no text whatever makes the reader fail otherwise than by a refusal', () => {
    const word = fc.oneof(
      fc.constantFrom(
        'a',
        ':',
        '- ',
        '\n',
        '  ',
        '{',
        '}',
        '[',
        ']',
        '&a',
        '*a',
        '!!',
        '"',
        "'",
        '|',
        '>',
        '#',
        '?',
        '%',
        '1e-4',
        '---',
        '\t',
      ),
      fc.string(),
    )
    fc.assert(
      fc.property(fc.array(word, { maxLength: 30 }), (words) => {
        expect(() => load({ 'r.yaml': words.join('') })).toThrow(UserError)
      }),
      { numRuns: 500 },
    )
  })
})

describe('references', () => {
  test('a circle of parents is refused with its path', () => {
    const files = {
      'r.yaml': recipe('{ name: a, extends: b }', '{ name: b, extends: "o.yaml#c" }'),
      'o.yaml': recipe('{ name: c, extends: "r.yaml#a" }'),
    }
    expect(refusal(() => load(files))).toMatchInlineSnapshot(`
      "r.yaml:4:25 stages[0].extends: expected a chain that ends, got a circle: r.yaml#a → r.yaml#b → o.yaml#c → r.yaml#a [CONFIG_CYCLE]
      hint: let one of these stages extend another stage, or none"
    `)
    expect(refusal(() => load({ 'r.yaml': recipe('{ name: a, extends: a }') }))).toContain('r.yaml#a → r.yaml#a')
  })

  test('an unknown parent and an unknown file are refused where they are named', () => {
    expect(refusal(() => load({ 'r.yaml': recipe('{ name: stage-1 }', '{ name: b, extends: stage-2 }') }))).toMatchInlineSnapshot(`
      "r.yaml:5:25 stages[1].extends: expected a stage of r.yaml (stage-1, b), got stage-2 [CONFIG_PARENT]
      hint: did you mean \`stage-1\`?"
    `)
    expect(refusal(() => load({ 'r.yaml': recipe('{ name: a, presets: [p.yaml] }') }))).toMatch(
      /^r\.yaml:4:26 stages\[0\]\.presets\[0\]: .*there is none \[CONFIG_FILE\]/,
    )
  })

  test('stage:NAME must be an earlier stage', () => {
    const message = refusal(() => load({ 'r.yaml': recipe('{ name: a, init: { weights: "stage:b" } }', '{ name: b }') }))
    expect(message).toContain('r.yaml:4:24 stages[0].init.weights: expected an earlier stage of this recipe (there is none), got stage:b')
  })

  test('a preset is no stage and no recipe', () => {
    const named = 'formatVersion: 1\npreset: { name: x }'
    expect(refusal(() => load({ 'r.yaml': recipe('{ name: a, presets: [p.yaml] }'), 'p.yaml': named }))).toContain('a preset is no stage')
    expect(refusal(() => load({ 'r.yaml': recipe('{ name: a, presets: [r.yaml] }') }))).toContain('expected a key of a preset')
  })
})

describe('fields that contradict each other', () => {
  test('frames that fill no whole latents are refused at their line with the two nearest counts', () => {
    expect(refusal(() => load({ 'r.yaml': recipe('name: a\n    shape:\n      frames: 64') }))).toMatchInlineSnapshot(`
      "r.yaml:6:7 stages[0].shape.frames: expected 1 + 4k frames, got 64 [SHAPE_FRAMES]
      hint: use 61 or 65"
    `)
  })

  test('published stages may be loaded as they were published', () => {
    const [a] = load({ 'r.yaml': recipe('{ name: a, shape: { frames: 64 } }') }, { refuseMisfits: false }).stages
    expect(a?.stage.shape.frames).toBe(64)
  })
})

describe('--set', () => {
  const files = { 'r.yaml': recipe('{ name: a }') }
  test.each([
    ['learningRate', 'expected path=value'],
    ['=3', 'expected path=value'],
    ['learningRat=3', 'did you mean `learningRate`?'],
    ['shape.frame=3', 'did you mean `shape.frames`?'],
    ['name=b', 'rename the stage in its file'],
    ['steps=many', 'expected a whole number'],
    ['steps=', 'got nothing'],
    ['trainable=[all', '[CONFIG_YAML]'],
    ['objective.maskRatios.i2v=3', 'write --set objective.maskRatios=VALUE'],
    ['b:steps=3', 'expected a stage of the recipe (a), got b'],
    ['__proto__.x=3', 'unknown key `__proto__`'],
  ])('%s is refused: %s', (option, part) => {
    expect(refusal(() => load(files, { set: [option] }))).toContain(part)
  })

  test.each([
    ['learningRate=1e-5', 'learningRate', 1e-5],
    ['trainable=[all, "-norms"]', 'trainable', ['all', '-norms']],
    ['notes=a=b', 'notes', 'a=b'],
    ['memory.threads=null', 'memory.threads', null],
    ['phases=[{ at: 50%, trainable: [all] }]', 'phases', [{ at: '50%', trainable: ['all'], rewarmSteps: 0 }]],
  ])('%s sets %s', (option, path, value) => {
    const [a] = load(files, { set: [option] }).stages
    expect(valueAt(a?.stage, path)).toEqual(value)
    expect(a?.origins.get(path)).toEqual({ layer: 'command line', name: `--set ${option}` })
  })
})

describe('the recipes that ship', () => {
  const folder = join(import.meta.dirname, '../../configs/recipes')
  test.each(readdirSync(folder).filter((file) => file.endsWith('.yaml')))('%s loads', (file) => {
    expect(loadRecipe(join(folder, file)).stages.length).toBeGreaterThan(0)
  })
})
