import { type Assignment, type Command, parse, type Statement, type Word } from 'unbash'
import { arithmeticValue } from './shell-arithmetic.ts'
import { Lines, type Place } from './shell-lines.ts'
import { type Assigned, type Expanded, ShellVariables } from './shell-variables.ts'

/** A word of a command as bash would hand it to the program. */
export interface ShellWord extends Place {
  /** The text; a variable the script does not set stands as it is written, `${NAME}`. */
  readonly text: string
  /** Variables that are neither set in the script nor have a default. */
  readonly unset: readonly string[]
  /** Whether a variable took part. */
  readonly expanded: boolean
}

/** A simple command in the order in which the script would run it. */
export interface ShellCommand extends Place {
  readonly words: readonly ShellWord[]
}

export interface ShellScript {
  readonly commands: readonly ShellCommand[]
  /** Variables at the end of the script that were exported or assigned, with the place they were set at. */
  readonly variables: ReadonlyMap<string, { readonly value: string; readonly place: Place }>
  /** Every value that a variable or an element of a list was given, in the order they stand. */
  readonly assigned: readonly Assigned[]
  readonly errors: readonly (Place & { readonly message: string })[]
  /** Where the first line ends as on Windows, which bash takes for a part of its last word. */
  readonly carriageReturn: Place | undefined
  readonly hasByteOrderMark: boolean
  /** The script itself, with lines ended as bash wants them. */
  readonly text: string
}

/**
 * The commands of a bash script with their words expanded: assignments, exports, defaults, arithmetic, arrays.
 * Nothing is run: `$(…)` stays as written. All branches and bodies are read once, in the order they stand.
 */
export function readShell(source: string): ShellScript {
  const hasByteOrderMark = source.startsWith('\ufeff')
  const text = (hasByteOrderMark ? source.slice(1) : source).replaceAll('\r\n', '\n')
  const returnAt = source.indexOf('\r\n')
  const carriageReturn = returnAt === -1 ? undefined : new Lines(source).at(returnAt)
  const parsed = parse(text)
  const reader = new ShellReader(new Lines(text))
  reader.statements(parsed.commands)
  const long = reader.variables.tooLong.map((pos) => ({ message: 'its variables make this word longer than any program takes', pos }))
  const errors = [...(parsed.errors ?? []), ...long].map(({ message, pos }) => ({ message, ...reader.lines.at(pos) }))
  return {
    commands: reader.commands,
    variables: reader.variables.set,
    assigned: reader.variables.assigned,
    errors,
    carriageReturn,
    hasByteOrderMark,
    text,
  }
}

const declarations = new Set(['export', 'declare', 'local', 'readonly', 'typeset'])

class ShellReader {
  readonly commands: ShellCommand[] = []
  readonly variables = new ShellVariables(arithmeticValue)

  constructor(readonly lines: Lines) {}

  statements(list: readonly Statement[]): void {
    for (const { command } of list) this.node(command)
  }

  /** Every node type of bash either holds commands under one of these names or is a command. */
  private node(node: unknown): void {
    if (Array.isArray(node)) {
      for (const child of node) this.node(child)
      return
    }
    if (node === null || typeof node !== 'object') return
    const { type } = node as { type?: string }
    if (type === 'Command') {
      this.command(node as Command)
      return
    }
    if (type === 'For') this.loopVariable(node as { name: Word; wordlist?: readonly Word[] })
    const held = node as Record<string, unknown>
    for (const name of ['clause', 'then', 'elif', 'else', 'command', 'commands', 'items', 'body']) this.node(held[name])
  }

  private loopVariable({ name, wordlist }: { name: Word; wordlist?: readonly Word[] }): void {
    const [first] = wordlist ?? []
    if (first)
      this.variables.assign(
        name.value,
        this.expand(first)
          .map(({ text }) => text)
          .join(' '),
        this.lines.at(name.pos),
      )
  }

  private command(command: Command): void {
    const assignments = command.prefix.filter((entry): entry is Assignment => entry.type === 'Assignment')
    for (const assignment of assignments) this.assign(assignment)
    if (!command.name) return
    if (declarations.has(command.name.value)) {
      for (const argument of command.args) if (argument.type === 'Assignment') this.assign(argument)
      return
    }
    const words = [command.name, ...command.args].flatMap((word) => this.wordsOf(word))
    this.commands.push({ words, ...this.lines.at(command.name.pos) })
  }

  private wordsOf(word: Word | Assignment): ShellWord[] {
    const place = this.lines.at(word.pos)
    if (word.type === 'Assignment') return [{ text: word.text, unset: [], expanded: false, line: place.line, column: place.column }]
    // Spelt out: spreading objects is a tenth of the time of an import.
    return this.expand(word).map(({ text, unset, expanded }) => ({ text, unset, expanded, line: place.line, column: place.column }))
  }

  private assign({ name, value, append, pos }: Assignment): void {
    const words = value.type === 'ArrayValue' ? value.elements : [value]
    const texts = words.flatMap((word) => this.expand(word, value.type === 'Word')).map(({ text }) => text)
    if (value.type === 'ArrayValue') this.variables.assignList(name, texts, append === true, this.lines.at(pos))
    else this.variables.assign(name, (append ? (this.variables.text(name) ?? '') : '') + texts.join(' '), this.lines.at(pos))
  }

  private expand(word: Word, whole = false): readonly Expanded[] {
    return this.variables.expand(word, whole)
  }
}
