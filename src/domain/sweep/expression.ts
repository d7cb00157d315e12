import { UserError } from '../errors.ts'

/*
 * Arithmetic over settings, for constraints and derived values: numbers, dotted names, + - * / %, parentheses, and for a constraint one
 * comparison. Nothing else: a sweep file is data and runs no code.
 */

/** Parentheses and signs within each other. */
const deepest = 100
const longestShown = 80

/** The value of a name; undefined where there is none. */
export type Lookup = (name: string) => unknown

const tokenForm = /\s*(?:(\d+\.?\d*(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?)|([A-Za-z_][\w]*(?:\.[A-Za-z_][\w]*)*)|(<=|>=|==|!=|[-+*/%()<>]))/iy
const comparisons: Readonly<Record<string, (a: number, b: number) => boolean>> = {
  '==': (a, b) => a === b || Math.abs(a - b) <= 1e-9 * Math.max(Math.abs(a), Math.abs(b)),
  '!=': (a, b) => a !== b,
  '<': (a, b) => a < b,
  '>': (a, b) => a > b,
  '<=': (a, b) => a <= b,
  '>=': (a, b) => a >= b,
}

/** An expression that was read once and is computed often. */
export interface Expression {
  readonly text: string
  /** Every name it uses. */
  readonly names: readonly string[]
  /** Raises UserError SWEEP_EXPRESSION where a name is no number. */
  readonly compute: (lookup: Lookup) => number
}

/** A comparison of two expressions. */
export interface Constraint {
  readonly text: string
  readonly names: readonly string[]
  readonly holds: (lookup: Lookup) => boolean
}

/** Reads an expression. Raises UserError SWEEP_EXPRESSION. */
export function readExpression(text: string): Expression {
  const reader = new Reader(text)
  const compute = reader.sum()
  reader.end()
  return { text, names: reader.names, compute }
}

/** Reads a constraint. Raises UserError SWEEP_EXPRESSION. */
export function readConstraint(text: string): Constraint {
  const reader = new Reader(text)
  const left = reader.sum()
  const sign = reader.take((token) => token in comparisons)
  const compare = comparisons[sign ?? '']
  if (!compare) throw refusal(text, `one of ${Object.keys(comparisons).join(' ')}`, reader.next)
  const right = reader.sum()
  reader.end()
  return { text, names: reader.names, holds: (lookup) => compare(left(lookup), right(lookup)) }
}

type Compute = (lookup: Lookup) => number

class Reader {
  readonly names: string[] = []
  readonly #text: string
  readonly #tokens: readonly string[]
  #at = 0
  #depth = 0

  constructor(text: string) {
    this.#text = text
    this.#tokens = tokensOf(text)
  }

  get next(): string | undefined {
    return this.#tokens[this.#at]
  }

  take(wanted: (token: string) => boolean): string | undefined {
    const token = this.next
    if (token === undefined || !wanted(token)) return undefined
    this.#at += 1
    return token
  }

  end(): void {
    if (this.next !== undefined) throw refusal(this.#text, 'its end', this.next)
  }

  sum(): Compute {
    let left = this.#product()
    for (let sign = this.#sign('+-'); sign !== undefined; sign = this.#sign('+-')) {
      const [a, b] = [left, this.#product()]
      left = sign === '+' ? (lookup) => a(lookup) + b(lookup) : (lookup) => a(lookup) - b(lookup)
    }
    return left
  }

  #product(): Compute {
    let left = this.#factor()
    for (let sign = this.#sign('*/%'); sign !== undefined; sign = this.#sign('*/%')) {
      const [a, b] = [left, this.#factor()]
      const both = sign
      left = (lookup) => (both === '*' ? a(lookup) * b(lookup) : both === '/' ? a(lookup) / b(lookup) : a(lookup) % b(lookup))
    }
    return left
  }

  #factor(): Compute {
    this.#depth += 1
    if (this.#depth > deepest) throw refusal(this.#text, `at most ${deepest} levels`, 'more')
    try {
      return this.#nested()
    } finally {
      this.#depth -= 1
    }
  }

  #nested(): Compute {
    if (this.#sign('-') !== undefined) {
      const inner = this.#factor()
      return (lookup) => -inner(lookup)
    }
    if (this.#sign('(') !== undefined) {
      const inner = this.sum()
      if (this.#sign(')') === undefined) throw refusal(this.#text, ')', this.next)
      return inner
    }
    const token = this.take((candidate) => /^[\w.]/.test(candidate))
    if (token === undefined) throw refusal(this.#text, 'a number or a setting', this.next)
    if (/^[\d.]/.test(token)) return () => Number(token)
    this.names.push(token)
    return (lookup) => numberOf(token, lookup(token), this.#text)
  }

  #sign(signs: string): string | undefined {
    return this.take((token) => token.length === 1 && signs.includes(token))
  }
}

function tokensOf(text: string): string[] {
  const tokens: string[] = []
  tokenForm.lastIndex = 0
  while (text.slice(tokenForm.lastIndex).trim() !== '') {
    const from = tokenForm.lastIndex
    const match = tokenForm.exec(text)
    if (!match) throw refusal(text, 'numbers, settings and + - * / % ( )', text.slice(from).trim()[0])
    tokens.push(match[1] ?? match[2] ?? match[3] ?? '')
  }
  return tokens
}

function numberOf(name: string, value: unknown, text: string): number {
  if (typeof value === 'number') return value
  throw refusal(text, `${name} to be a number`, JSON.stringify(value))
}

function refusal(text: string, expected: string, got: string | undefined): UserError {
  const shown = text.length > longestShown ? `${text.slice(0, longestShown)}…` : text
  return new UserError('SWEEP_EXPRESSION', `${shown}: expected ${expected}, got ${got ?? 'its end'}`, {
    hint: 'for example batch.perDevice * batch.accumulate == 64',
  })
}
