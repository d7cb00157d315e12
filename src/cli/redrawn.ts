import { columnsOf, cutColoured, type Output, widthOf } from './terminal.ts'

const usualRows = 24

/** Lines of a terminal that are drawn again in place: no wider and no taller than it is, whatever its size was when they were drawn last. */
export class Redrawn {
  readonly #out: Output
  /** Columns of each line that stands there. */
  #drawn: number[] = []

  constructor(out: Output) {
    this.#out = out
  }

  /** Draws lines over the last ones. Those for which there is no room are left out, all but the first at the top. */
  draw(lines: readonly string[]): void {
    const columns = this.#out.columns ?? widthOf(this.#out)
    const rows = Math.max(2, (this.#out.rows ?? usualRows) - 1)
    const cut = fitting(lines, rows).map((line) => cutColoured(line, columns))
    // A terminal that has become narrower breaks the lines that stand there.
    const broken = this.#drawn.reduce((sum, wide) => sum + Math.max(1, Math.ceil(wide / columns)), 0)
    const back = Math.min(broken, rows)
    const below = broken > cut.length ? '\u001b[0J' : ''
    this.#out.write((back > 0 ? `\u001b[${back}A` : '') + cut.map((line) => `\r\u001b[2K${line}\n`).join('') + below)
    this.#drawn = cut.map(columnsOf)
  }

  /** Leaves on the screen what stands there. */
  leave(): void {
    this.#drawn = []
  }
}

function fitting(lines: readonly string[], rows: number): readonly string[] {
  return lines.length <= rows ? lines : [...lines.slice(0, rows - 1), `… and ${lines.length - rows + 1} more lines; make the window taller`]
}
