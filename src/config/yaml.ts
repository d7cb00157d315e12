import { type Document, isAlias, isMap, isScalar, isSeq, LineCounter, type ParsedNode, parseDocument, type YAMLMap } from 'yaml'
import type { Located, LocatedEntry, LocatedRecord } from './located.ts'
import { type ConfigError, errorOf, type Place } from './problems.ts'

/*
 * YAML 1.2 (core schema) in which every value knows its place. Aliases are followed within a limit; merge keys, tags, several
 * documents and YAML 1.1 are refused, because they make a setting hard to find.
 */

/** Bytes a configuration file may have. */
const mostBytes = 1024 * 1024
/** Values a file may hold once its aliases are followed. */
const mostValues = 50_000
const deepest = 60
const tooDeep = `expected at most ${deepest} levels, got more`

/** Reads the YAML of a file; raises UserError CONFIG_YAML with the place of what is wrong. `file` is only named, never read. */
export function readYaml(bytes: Uint8Array | string, file: string): Located {
  const text = typeof bytes === 'string' ? bytes : decode(bytes, file)
  if (text.length > mostBytes) throw yamlError({ file }, `expected at most ${mostBytes} bytes, got ${text.length}`)
  const control = text.search(forbidden)
  if (control >= 0) throw yamlError({ file }, `expected text, got a control character at offset ${control}`, 'is this a binary file?')
  const lines = new LineCounter()
  const reader = new Reader(parsed(text, file, lines), file, lines)
  return reader.read()
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is looked for
const forbidden = /[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]/

/** Tags that say nothing the text does not. */
const plainTags: ReadonlySet<string> = new Set(
  ['str', 'int', 'float', 'bool', 'null', 'map', 'seq'].map((name) => `tag:yaml.org,2002:${name}`),
)

function decode(bytes: Uint8Array, file: string): string {
  if (bytes.length > mostBytes) throw yamlError({ file }, `expected at most ${mostBytes} bytes, got ${bytes.length}`)
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    throw yamlError({ file }, 'expected UTF-8 text, got other bytes', 'is this a binary file?')
  }
}

function parsed(text: string, file: string, lineCounter: LineCounter): Document.Parsed {
  const options = {
    lineCounter,
    version: '1.2',
    schema: 'core',
    merge: false,
    uniqueKeys: false,
    prettyErrors: false,
    logLevel: 'error',
  } as const
  const document = parsedOrTooDeep(() => parseDocument(text, options), file)
  const wrong = document.errors[0] ?? document.warnings[0]
  if (wrong) {
    const { line, col } = lineCounter.linePos(wrong.pos[0])
    const tab = wrong.code === 'TAB_AS_INDENT'
    const message = /call stack/.test(wrong.message) ? tooDeep : (wrong.message.split('\n')[0] ?? wrong.code)
    throw yamlError({ file, line, column: col }, message, tab ? 'indent with spaces' : undefined)
  }
  const { explicit, version } = document.directives.yaml
  if (explicit && version !== '1.2')
    throw yamlError({ file, line: 1, column: 1 }, `expected YAML 1.2, got ${version}`, 'remove the %YAML line')
  return document
}

function parsedOrTooDeep<T>(read: () => T, file: string): T {
  try {
    return read()
  } catch (cause) {
    if (cause instanceof RangeError) throw yamlError({ file }, tooDeep)
    throw cause
  }
}

function yamlError(place: Place, text: string, hint?: string): ConfigError {
  return errorOf([{ code: 'CONFIG_YAML', place, path: '', text, ...(hint ? { hint } : {}) }])
}

class Reader {
  #left = mostValues
  readonly #anchors = new Map<string, ParsedNode>()
  readonly #document: Document.Parsed
  readonly #file: string
  readonly #lines: LineCounter

  constructor(document: Document.Parsed, file: string, lines: LineCounter) {
    this.#document = document
    this.#file = file
    this.#lines = lines
  }

  read(): Located {
    const { contents } = this.#document
    if (contents === null) return { kind: 'scalar', value: null, place: { file: this.#file } }
    return this.#located(contents, 0)
  }

  #located(node: ParsedNode, depth: number): Located {
    const place = this.#placeOf(node)
    if (--this.#left < 0) throw yamlError(place, `expected at most ${mostValues} values, got more`, 'aliases multiply what they point at')
    if (depth > deepest) throw yamlError(place, tooDeep)
    if (node.tag !== undefined && !plainTags.has(node.tag)) throw yamlError(place, `expected no tag, got ${node.tag}`)
    if (isAlias(node)) return this.#followed(node.source, place, depth)
    this.#remember(node, place)
    if (isMap(node)) return this.#record(node as YAMLMap.Parsed, place, depth)
    if (isSeq(node)) return { kind: 'list', place, items: (node.items as ParsedNode[]).map((item) => this.#located(item, depth + 1)) }
    return { kind: 'scalar', place, value: this.#scalar(node, place) }
  }

  /** Anchors by name. A name may be given once, so that an alias means one thing wherever it stands. */
  #remember(node: ParsedNode, place: Place): void {
    const name = isAlias(node) ? undefined : node.anchor
    if (name === undefined) return
    const known = this.#anchors.get(name)
    if (known !== undefined && known !== node) throw yamlError(place, `expected each anchor once, got &${name} again`)
    this.#anchors.set(name, node)
  }

  #followed(name: string, place: Place, depth: number): Located {
    const target = this.#anchors.get(name)
    if (target === undefined) throw yamlError(place, `expected an anchor before the alias *${name}, got none`)
    return { ...this.#located(target, depth + 1), place }
  }

  #scalar(node: ParsedNode, place: Place): string | number | boolean | null {
    const value: unknown = isScalar(node) ? node.value : null
    if (value === null || typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean') return value
    throw yamlError(place, `expected text, a number, true, false or null, got ${typeof value}`)
  }

  #record(map: YAMLMap.Parsed, place: Place, depth: number): LocatedRecord {
    const entries = new Map<string, LocatedEntry>()
    for (const { key, value } of map.items) {
      const at = key === null ? place : this.#placeOf(key)
      const name = this.#key(key, at)
      const before = entries.get(name)
      if (before) throw yamlError(at, `expected each key once, got \`${name}\` again`, `it stands at line ${before.place.line} already`)
      entries.set(name, { place: at, value: value === null ? { kind: 'scalar', value: null, place: at } : this.#located(value, depth + 1) })
    }
    return { kind: 'record', entries, place }
  }

  #key(key: ParsedNode | null, place: Place): string {
    if (!isScalar(key) || key.value === null) throw yamlError(place, 'expected a name as key, got something else')
    const name = typeof key.value === 'string' ? key.value : (key.source ?? String(key.value))
    if (name === '<<') throw yamlError(place, 'expected no merge key, got `<<`', 'share settings with `presets` or `extends`')
    if (name === '__proto__') throw yamlError(place, 'expected another name than `__proto__`')
    return name
  }

  #placeOf(node: ParsedNode): Place {
    const { line, col } = this.#lines.linePos(node.range[0])
    return { file: this.#file, line, column: col }
  }
}
