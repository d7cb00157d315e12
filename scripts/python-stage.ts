import { stageJsonSchema } from '../src/domain/stage/fields.ts'

/*
 * Writes the Python half of the stage: frozen dataclasses without defaults, and a decoder that refuses missing and unknown keys.
 */

interface Node {
  type?: string | string[]
  properties?: Record<string, Node>
  required?: string[]
  items?: Node
  prefixItems?: Node[]
  enum?: string[]
  const?: unknown
  anyOf?: Node[]
  additionalProperties?: Node | boolean
  propertyNames?: Node
  meaning?: string
  unit?: string
  impact?: string
  added?: string
  default?: unknown
}

const keywords = new Set(['class', 'from', 'in', 'is', 'lambda', 'global'])
const classes: string[] = []
const livePaths: string[] = []
const added: string[] = []

/** The text of `python/osplan/domain/stage.py`. */
export function pythonStage(): string {
  classes.length = 0
  livePaths.length = 0
  added.length = 0
  const root = stageJsonSchema('output') as Node
  writeClass('Stage', root, [])
  return `${head}\n\n${classes.join('\n\n\n')}\n\n\n${decoder}`
    .replace('@LIVE@', livePaths.map((path) => `        "${path}",\n`).join(''))
    .replace('@ADDED@', added.join(''))
}

function writeClass(name: string, node: Node, at: string[]): void {
  const lines = Object.entries(node.properties ?? {}).flatMap(([key, child]) => {
    if (child.impact === 'live') livePaths.push([...at, key].join('.'))
    if (child.added) added.push(`    "${[...at, key].join('.')}": ${pythonValue(child.default)},\n`)
    const attribute = attributeName(key)
    const doc = child.meaning ? [`    """${sentence(child)}"""`] : []
    return [`    ${attribute}: ${typeOf(child, [...at, key])}`, ...doc]
  })
  const title =
    at.length === 0
      ? 'One phase of training, as TypeScript resolved it. No field has a default: defaults live in src/domain/stage/schema.ts.'
      : `\`${at.join('.')}\` of a stage.`
  classes.push([`@dataclass(frozen=True, kw_only=True, slots=True)`, `class ${name}:`, `    """${title}"""`, '', ...lines].join('\n'))
}

function pythonValue(value: unknown): string {
  if (typeof value === 'boolean') return value ? 'True' : 'False'
  return value === null ? 'None' : JSON.stringify(value)
}

function sentence(node: Node): string {
  const text = `${node.meaning}${node.unit ? ` [${node.unit}]` : ''}`
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}.`.replaceAll('\\', '\\\\')
}

function typeOf(node: Node, at: string[]): string {
  if (node.anyOf) return [...new Set(node.anyOf.map((option) => typeOf(option, at)))].join(' | ')
  if (Array.isArray(node.type)) return node.type.map((type) => typeOf({ ...node, type }, at)).join(' | ')
  if (node.enum) return `Literal[${node.enum.map((value) => `"${value}"`).join(', ')}]`
  switch (node.type) {
    case 'null':
      return 'None'
    case 'boolean':
      return 'bool'
    case 'integer':
      return 'int'
    case 'number':
      return 'float'
    case 'string':
      return 'str'
    case 'array':
      return `tuple[${typeOf(node.items ?? {}, [...at.slice(0, -1), singular(at.at(-1) ?? '')])}, ...]`
    case 'object':
      return objectType(node, at)
    default:
      throw new Error(`${at.join('.')}: no Python type for ${JSON.stringify(node)}`)
  }
}

function objectType(node: Node, at: string[]): string {
  if (!node.properties) return `Mapping[str, ${typeOf(node.additionalProperties as Node, at)}]`
  const name = (at.at(-1) ?? '').replace(/^./, (letter) => letter.toUpperCase())
  writeClass(name, node, at)
  return name
}

function singular(name: string): string {
  return name.replace(/s$/, '')
}

function attributeName(key: string): string {
  const snake = key.replace(/([A-Z])/g, (letter) => `_${letter.toLowerCase()}`)
  return keywords.has(snake) ? `${snake}_` : snake
}

const head = `"""A stage as TypeScript resolved it. Generated from src/domain/stage/schema.ts by \`npm run generate\`; do not edit."""

import types
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from osplan.domain.errors import UserError
from osplan.domain.protocol import camel`

const decoder = `LIVE_PATHS = frozenset(
    {
@LIVE@    }
)
"""Fields that may change while a run trains."""
ADDED: dict[str, Any] = {
@ADDED@}
"""Fields newer than the first runs, and the value that does what was done before them."""


def decode_stage(value: Any) -> Stage:
    """A stage from its JSON.

    Raises UserError STAGE_INVALID for a missing, an unknown or a wrongly typed key, by its path.
    """
    return _decode(Stage, value, "stage")


def _decode(wanted: Any, value: Any, path: str) -> Any:
    if is_dataclass(wanted):
        return _decode_object(wanted, value, path)
    origin = get_origin(wanted)
    if origin in (Union, types.UnionType):
        return _decode_union(wanted, value, path)
    if origin is Literal:
        return value if value in get_args(wanted) else _refuse(path, f"one of {', '.join(map(str, get_args(wanted)))}", value)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            _refuse(path, "a list", value)
        return tuple(_decode(get_args(wanted)[0], entry, f"{path}[{place}]") for place, entry in enumerate(value))
    if origin is Mapping or wanted is Mapping:
        if not isinstance(value, Mapping):
            _refuse(path, "an object", value)
        return {key: _decode(get_args(wanted)[1], entry, f"{path}.{key}") for key, entry in value.items()}
    return _decode_scalar(wanted, value, path)


def _decode_object(wanted: Any, value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        _refuse(path, "an object", value)
    hints = get_type_hints(wanted)
    keys = {camel(entry.name.removesuffix("_")): entry.name for entry in fields(wanted)}
    missing, unknown = [key for key in keys if key not in value], [key for key in value if key not in keys]
    if missing or unknown:
        found = "; ".join(f"{word} {', '.join(names)}" for word, names in (("missing", missing), ("unknown", unknown)) if names)
        raise UserError("STAGE_INVALID", f"{path}: expected every key of {wanted.__name__} and no other, got {found}", "both halves of Stagewright must be of one version")
    return wanted(**{name: _decode(hints[name], value[key], f"{path}.{key}") for key, name in keys.items()})


def _decode_union(wanted: Any, value: Any, path: str) -> Any:
    for option in get_args(wanted):
        try:
            return _decode(option, value, path)
        except UserError:
            continue
    return _refuse(path, " or ".join(getattr(option, "__name__", str(option)) for option in get_args(wanted)), value)


def _decode_scalar(wanted: Any, value: Any, path: str) -> Any:
    if wanted is type(None):
        return None if value is None else _refuse(path, "null", value)
    if wanted is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if wanted is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool)):
        return value
    return _refuse(path, wanted.__name__, value)


def _refuse(path: str, expected: str, got: Any) -> Any:
    raise UserError("STAGE_INVALID", f"{path}: expected {expected}, got {got!r}", "correct the stage and resolve it again")
`
