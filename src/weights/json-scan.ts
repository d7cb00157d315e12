/*
 * A strict JSON reader that keeps what JSON.parse throws away: duplicate keys, where each value stands, and numbers as they are written.
 * Source: RFC 8259. Lone surrogates are refused, as the reference reader of safetensors refuses them.
 */

import { quoted } from './finding.ts'

interface Placed {
  /** Index of the first letter in the text. */
  readonly start: number
}

export type JsonNode =
  | (Placed & { readonly kind: 'object'; readonly members: readonly JsonMember[] })
  | (Placed & { readonly kind: 'array'; readonly items: readonly JsonNode[] })
  | (Placed & { readonly kind: 'string'; readonly value: string })
  | (Placed & { readonly kind: 'number'; readonly text: string })
  | (Placed & { readonly kind: 'boolean' | 'null' })

export interface JsonMember {
  readonly key: string
  readonly keyStart: number
  readonly value: JsonNode
}

/** Where a text stops being JSON. */
export class JsonError extends Error {
  readonly at: number

  constructor(message: string, at: number) {
    super(message)
    this.name = 'JsonError'
    this.at = at
  }
}

const deepest = 32
/*
 * What is read is kept, and a header may take 100 MB: these bounds keep a hostile one from filling the memory. No shape has as many
 * lengths; as many values are a quarter of a million tensors, and more of them in the reference writer's form go the quick way.
 */
const longestList = 1000
const mostValues = 1 << 21
const numberPattern = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y
// biome-ignore lint/suspicious/noControlCharactersInRegex: JSON forbids them inside strings
const specialLetter = /[\u0000-\u001f\\]/
const loneSurrogate = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/

/** Whether a text is white space as JSON knows it, which is less than Unicode's. */
export function onlyJsonSpace(text: string): boolean {
  return /^[ \t\n\r]*$/.test(text)
}

/** The value at the start of a text and the index after it; what follows is the caller's. Throws JsonError. */
export function scanJson(text: string): { readonly node: JsonNode; readonly end: number } {
  const scanner = new Scanner(text)
  const node = scanner.value(0)
  return { node, end: scanner.at }
}

class Scanner {
  at = 0
  #values = 0
  readonly #text: string

  constructor(text: string) {
    this.#text = text
  }

  value(depth: number): JsonNode {
    this.#space()
    this.#values += 1
    if (this.#values > mostValues) throw new JsonError(`more than ${mostValues} values`, this.at)
    if (depth > deepest) throw new JsonError(`nested deeper than ${deepest}`, this.at)
    const start = this.at
    const letter = this.#text[start]
    if (letter === '{') return { kind: 'object', start, members: this.#members(depth) }
    if (letter === '[') return { kind: 'array', start, items: this.#items(depth) }
    if (letter === '"') return { kind: 'string', start, value: this.#string() }
    if (letter !== undefined && letter >= '-' && letter <= '9') return this.#number()
    return this.#word('true', 'boolean') ?? this.#word('false', 'boolean') ?? this.#word('null', 'null') ?? this.#number()
  }

  #members(depth: number): JsonMember[] {
    const members: JsonMember[] = []
    this.at += 1
    if (this.#took('}')) return members
    do {
      this.#space()
      const keyStart = this.at
      const key = this.#string()
      if (!this.#took(':')) throw this.#wrong('":"')
      members.push({ key, keyStart, value: this.value(depth + 1) })
    } while (this.#took(','))
    if (!this.#took('}')) throw this.#wrong('"," or "}"')
    return members
  }

  #items(depth: number): JsonNode[] {
    const items: JsonNode[] = []
    this.at += 1
    if (this.#took(']')) return items
    do {
      if (items.length === longestList) throw new JsonError(`a list of more than ${longestList} values`, this.at)
      items.push(this.value(depth + 1))
    } while (this.#took(','))
    if (!this.#took(']')) throw this.#wrong('"," or "]"')
    return items
  }

  #string(): string {
    if (this.#text[this.at] !== '"') throw this.#wrong('a string')
    const start = this.at
    let close = this.#text.indexOf('"', start + 1)
    while (close !== -1 && this.#isEscaped(close)) close = this.#text.indexOf('"', close + 1)
    if (close === -1) throw new JsonError('a string without end', start)
    this.at = close + 1
    const inside = this.#text.slice(start + 1, close)
    const value = specialLetter.test(inside) ? this.#unescaped(start, close + 1) : inside
    if (loneSurrogate.test(value)) throw new JsonError('a lone surrogate in a string', start)
    return value
  }

  #isEscaped(place: number): boolean {
    let first = place
    while (this.#text[first - 1] === '\\') first -= 1
    return (place - first) % 2 === 1
  }

  #unescaped(start: number, end: number): string {
    try {
      return JSON.parse(this.#text.slice(start, end))
    } catch {
      throw new JsonError('a control character or an unknown escape in a string', start)
    }
  }

  #number(): JsonNode {
    const start = this.at
    numberPattern.lastIndex = start
    const found = numberPattern.exec(this.#text)
    if (found === null) throw this.#wrong('a value')
    this.at += found[0].length
    return { kind: 'number', start, text: found[0] }
  }

  #word<Kind extends 'boolean' | 'null'>(word: string, kind: Kind): JsonNode | undefined {
    const start = this.at
    if (!this.#text.startsWith(word, start)) return undefined
    this.at += word.length
    return { kind, start }
  }

  #took(letter: string): boolean {
    this.#space()
    if (this.#text[this.at] !== letter) return false
    this.at += 1
    return true
  }

  #space(): void {
    for (;;) {
      const code = this.#text.charCodeAt(this.at)
      if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return
      this.at += 1
    }
  }

  #wrong(expected: string): JsonError {
    const got = this.at >= this.#text.length ? 'the end' : quoted(String.fromCodePoint(this.#text.codePointAt(this.at) ?? 0))
    return new JsonError(`expected ${expected}, got ${got}`, this.at)
  }
}
