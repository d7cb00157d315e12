import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { stageYaml, why, whyLines } from '../../src/config/explain.ts'
import { configJsonSchema, presetJsonSchema } from '../../src/config/json-schema.ts'
import { loadRecipe } from '../../src/config/recipe.ts'
import { stageFields } from '../../src/domain/stage/fields.ts'

const files: Record<string, string> = {
  'r.yaml':
    'formatVersion: 1\nname: r\nstages:\n  - name: one\n    learningRate: 1e-3\n  - name: two\n    extends: one\n    learningRate: 3e-4\n',
}
const recipe = loadRecipe('r.yaml', { readFile: (file) => files[file] ?? '', set: ['two:learningRate=2e-4'] })

function two() {
  const stage = recipe.stages[1]
  if (!stage) throw new Error('no stage two')
  return stage
}

describe('why a setting has its value', () => {
  test('every layer is named with its place, the winning one first', () => {
    expect(why(two(), 'learningRate').flatMap(whyLines).join('\n')).toMatchInlineSnapshot(`
      "learningRate = 2e-4
        highest learning rate of the stage
        ▸ command line      2e-4  --set two:learningRate=2e-4
          file              3e-4  r.yaml:8:5
          parent stage one  1e-3  r.yaml:5:5
          schema default    1e-4"
    `)
  })

  test('a section explains its fields', () => {
    expect(why(two(), 'batch').map(({ path }) => path)).toEqual(['batch.perDevice', 'batch.accumulate'])
  })

  test.each([
    ['learningrate', 'learningRate'],
    ['max_train_steps', 'steps'],
    ['frames', 'shape.frames'],
    ['objective.maskRatios.i2v', 'objective.maskRatios'],
  ])('%s is refused; %s was meant', (path, meant) => {
    expect(() => why(two(), path)).toThrow(expect.objectContaining({ code: 'CONFIG_UNKNOWN_KEY', hint: `did you mean \`${meant}\`?` }))
  })
})

describe('a complete stage as YAML', () => {
  test.each([true, false])('reads back as the stage, origins %s', (origins) => {
    expect(parse(stageYaml(two(), { origins }))).toEqual(two().stage)
  })

  test('each field says where it comes from', () => {
    const text = stageYaml(two(), { origins: true })
    expect(text).toContain('name: two # file r.yaml:6:5\n')
    expect(text.match(/# /g)).toHaveLength(stageFields().size)
  })

  test('values a terminal or YAML would take for something else survive', () => {
    const side = { ...two(), stage: { ...two().stage, notes: 'yes: no\n\u001b[31m', output: '*x' } }
    expect(parse(stageYaml(side, { origins: true }))).toMatchObject({ notes: 'yes: no\n\u001b[31m', output: '*x' })
  })
})

describe('the JSON Schema', () => {
  test('knows every field with its meaning, and no other', () => {
    const schema = configJsonSchema() as { properties: { stages: { items: Section } } }
    expect(leaves(schema.properties.stages.items, '').sort()).toEqual([...stageFields().keys(), 'extends', 'presets', 'provenance'].sort())
    const preset = presetJsonSchema() as { properties: { preset: Section } }
    expect(leaves(preset.properties.preset, '')).not.toContain('name')
  })

  test('holds nothing an editor does not know', () => {
    const text = JSON.stringify(configJsonSchema())
    expect(text).not.toMatch(/"(meaning|impact|why)":/)
    expect(text).toContain('frames per clip in pixels')
  })
})

interface Section {
  properties?: Record<string, Section>
  description?: string
}

function leaves({ properties }: Section, at: string): string[] {
  return Object.entries(properties ?? {}).flatMap(([name, child]) => (child.properties ? leaves(child, `${at}${name}.`) : [`${at}${name}`]))
}

test('the recipe that ships points at the schema beside it', () => {
  const folder = join(import.meta.dirname, '../../configs/recipes')
  expect(loadRecipe(join(folder, 'quickstart.yaml')).stages.map(({ stage }) => stage.name)).toEqual(['vae', 't2v-1', 't2v-2'])
})
