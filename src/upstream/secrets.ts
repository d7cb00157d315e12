import type { ShellScript, ShellWord } from './shell.ts'
import type { Place } from './shell-lines.ts'

/** A key or token somebody committed. Its value is nobody's to repeat: only the place and a name are kept. */
export interface Secret extends Place {
  /** The variable or option that holds it. */
  readonly name: string
}

const secretName = /(?:^|[_-])(?:api[_-]?key|key|token|secret|passw(?:or)?d|access[_-]?key)$/i
const harmlessName = /(?:^|[_-])(?:public|sort|primary)[_-]?key$/i
/** Forms that are keys wherever they stand: Hugging Face, OpenAI, GitHub, AWS. */
const knownForm = /\b(?:hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|AKIA[0-9A-Z]{16})\b/
/** No form of a key is shorter, so most words need no closer look. */
const shortestKey = 20
const longToken = /^[A-Za-z0-9_-]{20,}$/
export const redacted = '<secret removed>'

/** Committed keys of a script, and the same text without them. */
export class Secrets {
  readonly found: Secret[] = []
  private readonly values = new Set<string>()

  constructor(script: ShellScript) {
    for (const [name, { value, place }] of script.variables) {
      if (isSecret(name, value)) this.add(name, value, place)
    }
    for (const { words } of script.commands) this.command(words)
  }

  /** The text with every value that was found in it taken out. */
  without(text: string): string {
    let clean = text
    for (const value of this.values) if (clean.includes(value)) clean = clean.replaceAll(value, redacted)
    return clean
  }

  private add(name: string, value: string, { line, column }: Place): void {
    this.values.add(value)
    if (!this.found.some((secret) => secret.line === line && secret.name === name)) this.found.push({ name, line, column })
  }

  private command(words: readonly ShellWord[]): void {
    const loginAt = words.findIndex(({ text }) => text === 'login')
    let before = ''
    words.forEach((word, at) => {
      const isOption = word.text.startsWith('-')
      const [, option = '', inline] = (isOption && /^--?([\w-]+)(?:=(.*))?$/s.exec(word.text)) || []
      const option2 = before
      before = inline === undefined ? option : ''
      if (word.text.length < shortestKey) return
      const assigned = !isOption && word.text.includes('=') ? /^([A-Za-z_]\w*)=(.*)$/s.exec(word.text) : null
      if (inline !== undefined && isSecret(option, inline)) this.add(option, inline, word)
      else if (assigned && isSecret(assigned[1] ?? '', assigned[2] ?? '')) this.add(assigned[1] ?? '', assigned[2] ?? '', word)
      else if (isSecret(option2, word.text)) this.add(option2, word.text, word)
      else if (loginAt !== -1 && at > loginAt && longToken.test(word.text)) this.add(`${words[0]?.text ?? ''} login`, word.text, word)
      else if (knownForm.test(word.text)) this.add('argument', knownForm.exec(word.text)?.[0] ?? word.text, word)
    })
  }
}

function isSecret(name: string, value: string): boolean {
  if (knownForm.test(value)) return true
  return secretName.test(name) && !harmlessName.test(name) && longToken.test(value) && /\d/.test(value)
}
