/*
 * What a field expects, in words, from its JSON Schema.
 */

interface Node {
  type?: string
  anyOf?: Node[]
  enum?: unknown[]
  const?: unknown
  pattern?: string
  minimum?: number
  maximum?: number
  exclusiveMinimum?: number
  exclusiveMaximum?: number
  minLength?: number
  minItems?: number
  maxItems?: number
  items?: Node
  properties?: Record<string, Node>
  additionalProperties?: Node | boolean
}

/** What is expected at a path inside a field, such as `a whole number from 1` or `one of ddp, fsdp2, hsdp`. */
export function expectationAt(schema: Record<string, unknown>, path: readonly PropertyKey[]): string {
  return inWords(nodeAt(schema as Node, path))
}

/** Names or values a field takes, where it takes only some. */
export function choicesAt(schema: Record<string, unknown>, path: readonly PropertyKey[]): string[] {
  const node = nodeAt(schema as Node, path)
  return [node, ...(node.anyOf ?? [])].flatMap((option) => option.enum ?? []).filter((value) => typeof value === 'string')
}

/** Whether a field takes a value of a JSON type. */
export function takes(schema: Record<string, unknown>, path: readonly PropertyKey[], type: string): boolean {
  const node = nodeAt(schema as Node, path)
  return [node, ...(node.anyOf ?? [])].some((option) => option.type === type || (type === 'number' && option.type === 'integer'))
}

function nodeAt(node: Node, path: readonly PropertyKey[]): Node {
  const [step, ...rest] = path
  if (step === undefined) return node
  const options = [node, ...(node.anyOf ?? [])]
  const next = options.map((option) => stepInto(option, step)).find((found) => found !== undefined)
  return next ? nodeAt(next, rest) : node
}

function stepInto(node: Node, step: PropertyKey): Node | undefined {
  if (node.items && typeof step === 'number') return node.items
  if (node.properties) return node.properties[String(step)]
  return typeof node.additionalProperties === 'object' ? node.additionalProperties : undefined
}

function inWords(node: Node): string {
  if (node.anyOf) return node.anyOf.map(inWords).join(' or ')
  if (node.enum) return `one of ${node.enum.join(', ')}`
  if (node.const !== undefined) return String(node.const)
  switch (node.type) {
    case 'integer':
      return `a whole number${rangeOf(node)}`
    case 'number':
      return `a number${rangeOf(node)}`
    case 'boolean':
      return 'true or false'
    case 'string':
      return node.pattern ? `text of the form ${node.pattern}` : node.minLength ? 'text that is not empty' : 'text'
    case 'null':
      return 'null'
    case 'array':
      return `a list${lengthOf(node)}${node.items ? ` (each ${inWords(node.items)})` : ''}`
    case 'object':
      return node.properties ? `a section with ${Object.keys(node.properties).join(', ')}` : 'a section of names and values'
    default:
      return 'another value'
  }
}

function rangeOf({ minimum, maximum, exclusiveMinimum, exclusiveMaximum }: Node): string {
  const low = minimum === undefined || minimum <= -Number.MAX_SAFE_INTEGER ? undefined : `from ${minimum}`
  const high = maximum === undefined || maximum >= Number.MAX_SAFE_INTEGER ? undefined : `to ${maximum}`
  const above = exclusiveMinimum === undefined ? undefined : `above ${exclusiveMinimum}`
  const below = exclusiveMaximum === undefined ? undefined : `below ${exclusiveMaximum}`
  const parts = [above ?? low, below ?? high].filter((part) => part !== undefined)
  return parts.length === 0 ? '' : ` ${parts.join(' ')}`
}

function lengthOf({ minItems, maxItems }: Node): string {
  if (minItems !== undefined && minItems === maxItems) return ` of ${minItems}`
  if (minItems !== undefined) return ` of at least ${minItems}`
  return maxItems === undefined ? '' : ` of at most ${maxItems}`
}

/** A value as a message shows it: short, and never longer than a line. */
export function shown(value: unknown): string {
  if (value === undefined || value === null) return 'nothing'
  const text = typeof value === 'number' ? String(value) : JSON.stringify(value)
  return text.length > 60 ? `${text.slice(0, 57)}…` : text
}
