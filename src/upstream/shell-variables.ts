import type { ArithmeticExpression, ParameterExpansionPart, Word, WordPart } from 'unbash'
import type { Place } from './shell-lines.ts'

export interface Expanded {
  readonly text: string
  readonly unset: readonly string[]
  readonly expanded: boolean
}

export interface Assigned {
  readonly name: string
  readonly value: string
  readonly place: Place
}

type Arithmetic = (expression: ArithmeticExpression | undefined, variable: (name: string) => string | undefined) => number | undefined

/** Variables of a script while it is read, and the expansion of words with them. */
export class ShellVariables {
  readonly set = new Map<string, { readonly value: string; readonly place: Place }>()
  readonly assigned: Assigned[] = []
  /** Where words begin that would become longer than any program takes; they stand as they are written. */
  readonly tooLong: number[] = []
  private readonly lists = new Map<string, readonly string[]>()

  constructor(private readonly arithmetic: Arithmetic) {}

  text(name: string): string | undefined {
    return this.set.get(name)?.value ?? this.lists.get(name)?.[0]
  }

  assign(name: string, value: string, place: Place): void {
    this.set.set(name, { value, place })
    this.assigned.push({ name, value, place })
  }

  assignList(name: string, values: readonly string[], append: boolean, place: Place): void {
    for (const value of values) this.assigned.push({ name, value, place })
    this.lists.set(name, [...(append ? (this.lists.get(name) ?? []) : []), ...values])
  }

  /** The words one word becomes: none, one, or several where an unquoted variable holds blanks or a list is spread. */
  expand(word: Word, whole: boolean): readonly Expanded[] {
    if (!word.parts) return [{ text: word.value, unset: [], expanded: false }]
    const [only] = word.parts
    const spread = word.parts.length === 1 && only ? this.spread(only) : undefined
    if (spread) return spread.map((text) => ({ text, unset: [], expanded: true }))
    const unset: string[] = []
    const texts = word.parts.map((part) => this.part(part, unset))
    if (texts.reduce((sum, { length }) => sum + length, 0) > longestWord) {
      this.tooLong.push(word.pos)
      return [{ text: word.text, unset: [], expanded: false }]
    }
    const text = texts.join('')
    const quoted = word.parts.some(({ type }) => /Quoted|Literal/.test(type))
    const expanded = word.parts.some((part) => isExpansion(part))
    if (!whole && !quoted && expanded && unset.length === 0) {
      const pieces = text.length < longestSubstituted && /\$\(|`/.test(text) ? blankFree : /[^ \t\n]+/g
      return (text.match(pieces) ?? []).map((piece) => ({ text: piece, unset: [], expanded }))
    }
    return [{ text, unset, expanded }]
  }

  /** `"${LIST[@]}"` as its elements. */
  private spread(part: WordPart): readonly string[] | undefined {
    const inner = part.type === 'DoubleQuoted' && part.parts.length === 1 ? part.parts[0] : part
    if (inner?.type !== 'ParameterExpansion' || !['@', '*'].includes(inner.index?.value ?? '')) return undefined
    return this.lists.get(inner.parameter)
  }

  private part(part: WordPart, unset: string[]): string {
    switch (part.type) {
      case 'DoubleQuoted':
      case 'LocaleString': {
        const texts = part.parts.map((child) => this.part(child, unset))
        return texts.reduce((sum, { length }) => sum + length, 0) > longestWord ? tooLongText : texts.join('')
      }
      case 'SimpleExpansion':
        return this.named(part.text.slice(1), part.text, unset)
      case 'ParameterExpansion':
        return this.parameter(part, unset)
      case 'ArithmeticExpansion': {
        const value = this.arithmetic(part.expression, (name) => this.text(name))
        if (value === undefined) unset.push(...namesIn(part.text).filter((name) => this.text(name) === undefined))
        return value === undefined ? part.text : String(value)
      }
      case 'Literal':
      case 'SingleQuoted':
      case 'AnsiCQuoted':
        return part.value
      default:
        return part.text
    }
  }

  private named(name: string, written: string, unset: string[]): string {
    const value = this.text(name)
    if (value === undefined) unset.push(name)
    return value ?? written
  }

  private parameter(part: ParameterExpansionPart, unset: string[]): string {
    const { parameter, operation, index } = part
    if (index && /^\d+$/.test(index.value))
      return this.lists.get(parameter)?.[Number(index.value)] ?? this.named(`${parameter}[${index.value}]`, part.text, unset)
    const value = this.text(parameter)
    const operand = (word: Word) =>
      this.expand(word, true)
        .map(({ text }) => text)
        .join(' ')
    if (operation?.type === 'Default') {
      const given = value !== undefined && (value !== '' || !operation.operator.startsWith(':'))
      if (operation.operator.endsWith('+')) return given ? operand(operation.operand) : ''
      if (given) return value
      return operation.operator.endsWith('?') ? this.named(parameter, part.text, unset) : operand(operation.operand)
    }
    if (value === undefined || (operation && value.length > longestSubstituted)) return this.named(parameter, part.text, unset)
    switch (operation?.type) {
      case undefined:
        return part.prefix === '#' ? String(value.length) : value
      case 'Replace':
        return replaced(value, operation.operator, operand(operation.pattern), operand(operation.replacement))
      case 'Remove':
        return removed(value, operation.operator, operand(operation.operand))
      default:
        return part.text
    }
  }
}

/** Variables made of each other grow without bound; Linux takes 128 KiB in an argument. */
const longestWord = 1 << 24
/** What a quoted part is that grew too long: its word does too. */
const tooLongText = ' '.repeat(longestWord + 1)

/** Longer texts are no list of arguments; looking for the ends of their substitutions takes time that grows with the square. */
const longestSubstituted = 20_000

/** Pieces between blanks, where the blanks of a substitution that stays as written separate nothing. */
const blankFree = /(?:\$\((?:[^()]|\([^()]*\))*\)|`[^`]*`|[^ \t\n])+/g

function isExpansion(part: WordPart): boolean {
  if (part.type === 'DoubleQuoted') return part.parts.some(isExpansion)
  return /Expansion$/.test(part.type)
}

function namesIn(text: string): string[] {
  return [...new Set(text.match(/[A-Za-z_]\w*/g) ?? [])]
}

function replaced(value: string, operator: string, pattern: string, replacement: string): string {
  return operator === '//' ? value.replaceAll(pattern, () => replacement) : value.replace(pattern, () => replacement)
}

/** `${x%.sh}` and its kin: shell patterns with `*` and `?`, from the end or the start, shortest or longest. */
function removed(value: string, operator: string, pattern: string): string {
  const source = pattern
    .replace(/[.+^${}()|[\]\\]/g, '\\$&')
    .replaceAll('*', '[^]*')
    .replaceAll('?', '[^]')
  const matcher = new RegExp(`^${source}$`)
  const cuts = Array.from({ length: value.length + 1 }, (_, cut) => cut)
  const atEnd = operator.startsWith('%')
  const ordered = (operator.length === 1) === atEnd ? cuts.reverse() : cuts
  const cut = ordered.find((at) => matcher.test(atEnd ? value.slice(at) : value.slice(0, at)))
  return cut === undefined ? value : atEnd ? value.slice(0, cut) : value.slice(cut)
}
