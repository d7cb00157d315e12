import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Redrawn } from '../../src/cli/redrawn.ts'

/** A terminal of some size that obeys what is written to it. It breaks lines anew when it becomes narrower, as most do. */
class Terminal {
  columns = 80
  rows = 24
  readonly isTTY = true
  lines: string[] = ['$ stagewright watch']
  #row = 1

  write(text: string): void {
    // biome-ignore lint/suspicious/noControlCharactersInRegex: what a terminal obeys begins with one
    for (const part of text.split(/(\u001b\[\d+[AKJ]|[\r\n])/)) this.#take(part)
  }

  resize(columns: number): void {
    this.lines = this.lines.slice(0, this.#row).flatMap((line) => line.match(new RegExp(`.{1,${columns}}`, 'g')) ?? [''])
    this.#row = this.lines.length
    this.columns = columns
  }

  #take(part: string): void {
    const isUp = part.startsWith('\u001b[') && part.endsWith('A')
    if (isUp) this.#row = Math.max(0, this.#row - Number(part.slice(2, -1)), this.lines.length - this.rows)
    else if (part === '\n') this.#row += 1
    else if (part === '\u001b[2K') this.lines[this.#row] = ''
    else if (part === '\u001b[0J') this.lines.length = this.#row
    else if (part !== '\r' && part !== '') this.lines[this.#row] = part
  }
}

test('whatever the sizes of views and terminal, what stands there at last is the last view alone, below what stood before', () => {
  const view = fc.record({ lines: fc.array(fc.nat(120), { minLength: 1, maxLength: 40 }), columns: fc.integer({ min: 20, max: 120 }) })
  fc.assert(
    fc.property(fc.array(view, { minLength: 1, maxLength: 6 }), (views) => {
      const terminal = new Terminal()
      terminal.rows = 200
      const redrawn = new Redrawn(terminal)
      for (const [place, { lines, columns }] of views.entries()) {
        terminal.resize(columns)
        redrawn.draw(lines.map((wide) => String(place).repeat(wide)))
      }
      const { lines, columns } = views.at(-1) ?? { lines: [], columns: 0 }
      const last = lines.map((wide) => String(views.length - 1).repeat(Math.min(wide, columns)))
      expect(terminal.lines.slice(-last.length)).toEqual(last)
      expect(terminal.lines.slice(0, -last.length).join('')).toBe('$ stagewright watch')
    }),
  )
})

test('a view taller than the terminal says so in its last line, and is drawn again in its place', () => {
  const terminal = new Terminal()
  terminal.rows = 10
  const redrawn = new Redrawn(terminal)
  const lines = Array.from({ length: 20 }, (_, run) => `run ${run}`)
  for (let times = 0; times < 5; times += 1) redrawn.draw(lines)
  expect(terminal.lines).toEqual(['$ stagewright watch', ...lines.slice(0, 8), '… and 12 more lines; make the window taller'])
})
