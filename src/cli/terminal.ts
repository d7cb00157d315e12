/*
 * What the commands know of a terminal: colour, width, tables. Everything they print passes here.
 */

/** Where text goes: a terminal, a pipe, or a test. */
export interface Output {
  write(text: string): unknown
  readonly isTTY?: boolean | undefined
  readonly columns?: number | undefined
  readonly rows?: number | undefined
}

/** The world outside a command; `main` gives it, since only `main` reads it. */
export interface World {
  readonly cwd: string
  readonly env: Readonly<Record<string, string | undefined>>
  readonly stdout: Output
  readonly stderr: Output
  /** Sets the code the process ends with. */
  readonly setExitCode: (code: number) => void
}

export interface Paint {
  readonly bold: (text: string) => string
  readonly dim: (text: string) => string
  readonly red: (text: string) => string
  readonly green: (text: string) => string
  readonly yellow: (text: string) => string
  readonly cyan: (text: string) => string
}

const codes = { bold: 1, dim: 2, red: 31, green: 32, yellow: 33, cyan: 36 } as const

/** Colours for an output: none in a pipe, with NO_COLOR or in a dumb terminal; always with FORCE_COLOR. See no-color.org. */
export function paintFor(output: Output, env: World['env']): Paint {
  const style = (code: number) => (text: string) => (hasColour(output, env) && text !== '' ? `\u001b[${code}m${text}\u001b[0m` : text)
  return {
    bold: style(codes.bold),
    dim: style(codes.dim),
    red: style(codes.red),
    green: style(codes.green),
    yellow: style(codes.yellow),
    cyan: style(codes.cyan),
  }
}

function hasColour(output: Output, env: World['env']): boolean {
  if (env.NO_COLOR !== undefined && env.NO_COLOR !== '') return false
  if (env.FORCE_COLOR !== undefined && env.FORCE_COLOR !== '' && env.FORCE_COLOR !== '0') return true
  return output.isTTY === true && env.TERM !== 'dumb'
}

/** Columns to use: the terminal's, at least 40 and at most 100; 80 in a pipe. */
export function widthOf(output: Output): number {
  return output.isTTY && output.columns ? Math.min(100, Math.max(40, output.columns)) : 80
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: colour codes start with one
const colourCode = /\u001b\[\d+m/g

/** Columns a text takes, colours not counted. East Asian wide characters count as one. */
export function columnsOf(text: string): number {
  return [...text.replace(colourCode, '')].length
}

export function padded(text: string, columns: number): string {
  return text + ' '.repeat(Math.max(0, columns - columnsOf(text)))
}

/** A text cut to a number of columns, with `…` where something is missing. Takes no colours. */
export function cut(text: string, columns: number): string {
  const letters = [...text]
  return letters.length <= columns ? text : `${letters.slice(0, Math.max(0, columns - 1)).join('')}…`
}

/** A coloured text cut to a number of columns; what follows is not coloured by it. */
export function cutColoured(text: string, columns: number): string {
  if (columnsOf(text) <= columns) return text
  let left = Math.max(0, columns)
  // biome-ignore lint/suspicious/noControlCharactersInRegex: colour codes start with one
  const parts = text.split(/(\u001b\[\d+m)/).map((part) => {
    if (part.startsWith('\u001b')) return part
    const kept = [...part].slice(0, left)
    left -= kept.length
    return kept.join('')
  })
  return parts.join('')
}

/** A text in lines of at most `columns`, broken between words; a longer word is broken where the line ends. Takes no colours. */
export function wrapped(text: string, columns: number): string[] {
  const lines: string[] = []
  let line = ''
  for (const word of text.split(/\s+/).flatMap((part) => pieces(part, columns))) {
    if (line === '') line = word
    else if (columnsOf(line) + 1 + columnsOf(word) <= columns) line += ` ${word}`
    else {
      lines.push(line)
      line = word
    }
  }
  return line === '' ? lines : [...lines, line]
}

function pieces(word: string, columns: number): string[] {
  const letters = [...word]
  const count = Math.max(1, Math.ceil(letters.length / columns))
  return Array.from({ length: count }, (_, place) => letters.slice(place * columns, (place + 1) * columns).join(''))
}

/** Rows in aligned columns, two spaces between them; trailing space is left out. Cells may be coloured. */
export function table(rows: readonly (readonly string[])[], indent = ''): string[] {
  const columns = Math.max(0, ...rows.map((row) => row.length))
  const widths = Array.from({ length: columns }, (_, place) => Math.max(0, ...rows.map((row) => columnsOf(row[place] ?? ''))))
  return rows.map((row) => (indent + row.map((cell, place) => padded(cell, widths[place] ?? 0)).join('  ')).trimEnd())
}

/** Text from outside without what a terminal would obey: control characters become `\u{…}`. */
export function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (letter) => `\\u{${letter.codePointAt(0)?.toString(16)}}`)
}

/** Writes a value as JSON, indented, with a final line end. */
export function writeJson(output: Output, value: unknown): void {
  output.write(`${JSON.stringify(value, null, 2)}\n`)
}

export function writeLines(output: Output, lines: readonly string[]): void {
  output.write(`${lines.join('\n')}\n`)
}
