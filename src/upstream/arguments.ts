import { nearestName } from '../domain/nearest.ts'
import type { Severity } from '../domain/stage/origin.ts'
import type { ShellWord } from './shell.ts'
import type { FlagSpec, FlagValue, Trainer } from './trainer.ts'

/** A flag the command gives. */
export interface GivenFlag {
  readonly name: string
  readonly value: FlagValue
  /** The text of the value as bash hands it over; empty for a switch. */
  readonly text: string
  readonly word: ShellWord
  /** Variables the environment has to give. */
  readonly unset: readonly string[]
}

/** Something argparse would trip over, or pass over. */
export interface ArgumentProblem {
  readonly rule: string
  readonly severity: Severity
  readonly word: ShellWord
  readonly flag: string
  readonly message: string
  readonly hint: string
}

export interface ParsedArguments {
  readonly given: ReadonlyMap<string, GivenFlag>
  readonly problems: readonly ArgumentProblem[]
}

/** Programs whose further options belong to a library's own parser. */
const openParsers = new Set(['videogpt', 'megatron'])

/** The arguments of a trainer as its argparse would read them: prefixes, `--flag=value`, last one wins. */
export function parseArguments(words: readonly ShellWord[], trainer: Trainer): ParsedArguments {
  return new ArgumentReader(words, trainer).read()
}

/** Near names by trainer: scripts of one time share their mistakes. */
const nearest = new WeakMap<Trainer, Map<string, string | undefined>>()

function nearestFlag(written: string, trainer: Trainer): string | undefined {
  const known = nearest.get(trainer) ?? new Map<string, string | undefined>()
  nearest.set(trainer, known)
  if (!known.has(written)) known.set(written, nearestName(written, Object.keys(trainer.flags)))
  return known.get(written)
}

const prefixed = new WeakMap<Trainer, Map<string, readonly string[]>>()

/** Flags that begin with what is written. */
function flagsStarting(written: string, trainer: Trainer): readonly string[] {
  const known = prefixed.get(trainer) ?? new Map<string, readonly string[]>()
  prefixed.set(trainer, known)
  const found = known.get(written) ?? Object.keys(trainer.flags).filter((name) => name.startsWith(written))
  known.set(written, found)
  return found
}

class ArgumentReader {
  private readonly given = new Map<string, GivenFlag>()
  private readonly problems: ArgumentProblem[] = []

  constructor(
    private readonly words: readonly ShellWord[],
    private readonly trainer: Trainer,
  ) {}

  read(): ParsedArguments {
    for (let at = 0; at < this.words.length; ) at += this.option(at)
    return { given: this.given, problems: this.problems }
  }

  /** Reads the option at a place and returns how many words it took. */
  private option(at: number): number {
    const word = this.words[at] as ShellWord
    const [, written, inline] = /^--?([A-Za-z][\w.-]*)(?:=(.*))?$/s.exec(word.text) ?? []
    if (written === undefined) {
      this.stray(word)
      return 1
    }
    const name = this.nameOf(written, word)
    const spec = this.trainer.flags[name]
    const values = inline === undefined ? this.valuesAfter(at, spec) : [{ ...word, text: inline }]
    this.keep(name, spec, word, values)
    return 1 + (inline === undefined ? values.length : 0)
  }

  private nameOf(written: string, word: ShellWord): string {
    const { flags } = this.trainer
    if (written in flags) return written
    const starting = flagsStarting(written, this.trainer)
    if (starting.length === 1 && starting[0] !== undefined) {
      this.add('abbreviated-flag', 'info', word, starting[0], `--${written}: stands for --${starting[0]}`, 'write the whole name')
      return starting[0]
    }
    if (openParsers.has(this.trainer.family)) return written
    const ambiguous = starting.length > 1 ? `, which may mean ${starting.map((name) => `--${name}`).join(' or ')}` : ''
    const near = nearestFlag(written, this.trainer)
    const message = `--${written}: expected a flag of ${this.trainer.path} at ${this.trainer.version}, got one it does not have${ambiguous}`
    this.add('unknown-flag', 'error', word, written, message, near ? `did you mean --${near}?` : 'remove it, or name another version')
    return written
  }

  private valuesAfter(at: number, spec: FlagSpec | undefined): readonly ShellWord[] {
    if (spec?.type === 'switch') return []
    const next = this.words[at + 1]
    const isValue = next !== undefined && (!next.text.startsWith('-') || /^-[\d.]/.test(next.text))
    if (!isValue) return []
    if (spec !== undefined && !openParsers.has(this.trainer.family)) return [next]
    const rest = this.words.slice(at + 1)
    const end = rest.findIndex(({ text }) => text.startsWith('-') && !/^-[\d.]/.test(text))
    return end === -1 ? rest : rest.slice(0, end)
  }

  private keep(name: string, spec: FlagSpec | undefined, word: ShellWord, values: readonly ShellWord[]): void {
    const before = this.given.get(name)
    const text = values.map((value) => value.text).join(' ')
    const value = this.valueOf(name, spec, word, values)
    const unset = values.flatMap((each) => each.unset)
    if (before) this.duplicate(before, value, word)
    this.given.set(name, { name, value, text, word, unset })
  }

  private valueOf(name: string, spec: FlagSpec | undefined, word: ShellWord, values: readonly ShellWord[]): FlagValue {
    if (spec?.type === 'switch') {
      if (values.length > 0) this.add('bad-value', 'error', word, name, `--${name}: expected no value, got one`, 'remove the value')
      return true
    }
    const [first] = values
    if (first === undefined) {
      if (spec === undefined || spec.type === 'bool') return true
      this.add('bad-value', 'error', word, name, `--${name}: expected a value, got none`, 'give the value, or remove the flag')
      return spec.default
    }
    if (spec === undefined && values.length > 1) return values.map(({ text }) => text)
    return this.converted(name, spec, word, first)
  }

  private converted(name: string, spec: FlagSpec | undefined, word: ShellWord, { text, unset }: ShellWord): FlagValue {
    if (spec?.choices && unset.length === 0 && !spec.choices.includes(text)) {
      const message = `--${name}: expected one of ${spec.choices.join(', ')}, got ${text}`
      this.add('bad-value', 'error', word, name, message, `use ${spec.choices.join(', ')}`)
    }
    if (spec?.type === 'bool') return !/^(?:false|no|0|f|n)$/i.test(text)
    if (spec === undefined)
      return asNumber(text) ?? (text === 'True' || text === 'true' ? true : text === 'False' || text === 'false' ? false : text)
    if (spec.type === 'str') return text
    const number = spec.type === 'int' && !/^[+-]?\d+$/.test(text.trim()) ? undefined : asNumber(text)
    if (number !== undefined) return number
    if (unset.length > 0) this.unresolved(name, spec, word, unset)
    else if (/\$\(|`/.test(text)) {
      const message = `--${name}: ${text} is known only when the script runs; the trainer’s default stands here`
      this.add('computed-value', 'info', word, name, message, 'write the number to have it compared and checked')
    } else
      this.add(
        'bad-value',
        'error',
        word,
        name,
        `--${name}: expected ${spec.type === 'int' ? 'a whole number' : 'a number'}, got ${text}`,
        'correct it',
      )
    return text
  }

  private unresolved(name: string, spec: FlagSpec, word: ShellWord, unset: readonly string[]): void {
    const names = [...new Set(unset)].map((variable) => `\${${variable}}`).join(' and ')
    const wanted = `--${name}: expected ${spec.type === 'int' ? 'a whole number' : 'a number'}, got ${names}, which`
    if (unset.every((variable) => /^\d+$/.test(variable))) {
      this.add('unset-variable', 'warn', word, name, `${wanted} whoever starts the script gives`, 'write the number to have it compared')
      return
    }
    const message = `${wanted} the script never sets`
    this.add('unset-variable', 'error', word, name, message, `set it before the command, for example export ${unset[0]}=…`)
  }

  private duplicate(before: GivenFlag, value: FlagValue, word: ShellWord): void {
    const { name } = before
    const same = JSON.stringify(before.value) === JSON.stringify(value)
    const message = same
      ? `--${name}: given twice with the same value, first in line ${before.word.line}`
      : `--${name}: given twice, ${String(before.value)} in line ${before.word.line} and ${String(value)}; the last one counts`
    this.add('duplicate-flag', same ? 'info' : 'warn', word, name, message, 'keep one of them')
  }

  private stray(word: ShellWord): void {
    if (word.unset.length > 0 && word.unset.every((name) => /^[@*]$/.test(name))) return
    if (word.text.trim() === '') {
      const message = 'line ends in a backslash and a blank: bash ends the command here'
      this.add('stray-backslash-space', 'error', word, '', message, 'remove the blank after the backslash')
      return
    }
    const message = `${word.text}: expected a flag, got a word no flag takes`
    this.add('stray-argument', 'error', word, word.text, message, 'remove it, or write the flag before it')
  }

  private add(rule: string, severity: Severity, word: ShellWord, flag: string, message: string, hint: string): void {
    this.problems.push({ rule, severity, word, flag, message, hint })
  }
}

export function asNumber(text: string): number | undefined {
  return /^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$/.test(text.trim()) ? Number(text) : undefined
}
