import { z } from 'zod'
import { stageFields, stageJsonSchema } from '../domain/stage/fields.ts'
import { axisSchema, sweepSchema } from '../domain/sweep/schema.ts'
import { formatVersion } from './recipe-file.ts'

type Schema = Record<string, unknown>

/** JSON Schema of a recipe, for editors: completion, meaning and units while typing. */
export function configJsonSchema(): Schema {
  const stage = editorSchema(stageJsonSchema('input'))
  const properties = {
    ...(stage.properties as Schema),
    presets: presetList,
    extends: { type: 'string', minLength: 1, description: 'the stage it changes: a name in this recipe, or FILE.yaml#STAGE' },
    provenance,
  }
  return {
    $schema: dialect,
    title: 'Stagewright recipe',
    type: 'object',
    additionalProperties: false,
    required: ['formatVersion', 'name', 'stages'],
    properties: {
      formatVersion: { const: formatVersion },
      name: { type: 'string', minLength: 1 },
      notes: { type: 'string' },
      provenance,
      presets: presetList,
      stages: { type: 'array', minItems: 1, items: { type: 'object', additionalProperties: false, required: ['name'], properties } },
    },
  }
}

/** JSON Schema of a preset: some settings of a stage, without a name. */
export function presetJsonSchema(): Schema {
  const { name: _, ...properties } = editorSchema(stageJsonSchema('input')).properties as Schema
  return {
    $schema: dialect,
    title: 'Stagewright preset',
    type: 'object',
    additionalProperties: false,
    required: ['formatVersion', 'preset'],
    properties: {
      formatVersion: { const: formatVersion },
      name: { type: 'string', minLength: 1 },
      notes: { type: 'string' },
      preset: { type: 'object', additionalProperties: false, properties },
    },
  }
}

/** JSON Schema of a sweep: every setting may be an axis, under its dotted name or nested. */
export function sweepJsonSchema(): Schema {
  const { $schema: _, ...schema } = z.toJSONSchema(sweepSchema, { io: 'input' }) as Schema
  const { $schema: __, ...axis } = z.toJSONSchema(axisSchema, { io: 'input' }) as Schema
  const fields = [...stageFields().values()].filter(({ path }) => path !== 'name' && path !== 'seed')
  const space = {
    type: 'object',
    description: 'settings and their axes, by dotted names or nested',
    properties: Object.fromEntries(
      fields.map(({ path, meaning }) => [
        path,
        { description: meaning, anyOf: [{ $ref: '#/$defs/axis' }, { type: ['number', 'string', 'boolean', 'array', 'null'] }] },
      ]),
    ),
  }
  return {
    $schema: dialect,
    title: 'Stagewright sweep',
    ...schema,
    properties: { ...(schema.properties as Schema), space },
    $defs: { axis },
  }
}

const dialect = 'https://json-schema.org/draft/2020-12/schema'
const presetList = {
  type: 'array',
  items: { type: 'string', minLength: 1 },
  description: 'files with settings, weakest first, counted from this file’s folder',
}
const provenance = { type: 'object', description: 'where it comes from; free names and values' }

/** Our metadata, which an editor does not know. */
const ours: ReadonlySet<string> = new Set(['group', 'kind', 'impact', 'meaning', 'unit', 'why', 'upstream', '$schema'])

/** A schema without our metadata, its description with unit and cost. */
function editorSchema(node: Schema): Schema {
  const { properties, items, anyOf } = node
  const kept = Object.entries(node).filter(([name]) => !ours.has(name))
  return {
    ...Object.fromEntries(kept),
    ...(typeof node.meaning === 'string' ? { description: described(node) } : {}),
    ...(isSchema(properties) ? { properties: mapped(properties) } : {}),
    ...(isSchema(items) ? { items: editorSchema(items) } : {}),
    ...(Array.isArray(anyOf) ? { anyOf: anyOf.map(editorSchema) } : {}),
  }
}

function mapped(properties: Schema): Schema {
  return Object.fromEntries(Object.entries(properties).map(([name, child]) => [name, editorSchema(child as Schema)]))
}

function described({ meaning, unit, impact }: Schema): string {
  return `${meaning}${unit ? ` [${unit}]` : ''}${impact === undefined ? '' : `; changing it: ${impact}`}`
}

function isSchema(value: unknown): value is Schema {
  return value !== null && typeof value === 'object' && !Array.isArray(value)
}
