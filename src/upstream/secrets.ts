import type { ShellScript, ShellWord } from './shell.ts'
import { Lines, type Place } from './shell-lines.ts'

/** A key or token somebody committed. Its value is nobody's to repeat: only the place and a name are kept. */
export interface Secret extends Place {
  /** The variable or option that holds it. */
  readonly name: string
}

const ending = '(?:api[_-]?key|access[_-]?key|key|token|secret|passw(?:or)?d|passphrase)(?:[_-]?\\d+)?'
const secretName = new RegExp(`(?:^|[_-])${ending}$`, 'i')
const passwordName = /passw(?:or)?d|passphrase/i
const harmlessName = /(?:^|[_-])(?:public|sort|primary)[_-]?key$/i
/** Forms that are keys wherever they stand: Hugging Face, OpenAI, GitHub, GitLab, AWS, Slack, Google, npm, PyPI, JSON web tokens. */
const forms = [
  'hf_[A-Za-z0-9]{20,}',
  'sk-[A-Za-z0-9_-]{20,}',
  'gh[pousr]_[A-Za-z0-9]{20,}',
  'github_pat_\\w{20,}',
  'glpat-[\\w-]{20,}',
  'A[KS]IA[0-9A-Z]{16}',
  'xox[abeoprs]-[\\w-]{10,}',
  'AIza[\\w-]{35}',
  'npm_[A-Za-z0-9]{36}',
  'pypi-[\\w-]{20,}',
  '(?<![\\w-])eyJ[\\w-]{10,1000}\\.[\\w-]{10,}\\.[\\w-]*',
].join('|')
const knownForm = new RegExp(`\\b(?:${forms})`)
/** Ways in which a key stands inside a text: after its name, in an address, in a header. The last group that matched is the key. */
const inside = new RegExp(
  [
    `\\b(?<name>(?:\\w+[_-])?${ending})\\\\?["']?\\s*[:=]\\s*\\\\?["']?(?<value>[^\\s"'\`$&|;,<>(){}\\\\]{6,})`,
    `\\b(?<scheme>[a-z][a-z0-9+.-]{0,20}):\\/\\/(?<login>[^\\s:/@"'$]*:[^\\s/@"'$]+@)`,
    `(?<bearer>Bearer)\\s+(?<header>[\\w.~+/=-]{16,})`,
    `\\b(?<form>${forms})`,
  ].join('|'),
  'gi',
)
/** No key is shorter, passwords aside. */
const shortestKey = 20
const shortestPassword = 6
const longToken = /^[\w-]{20,}$/
const base64Key = /^(?=.*[a-z])(?=.*[A-Z])[A-Za-z0-9+/]{32,}={0,2}$/
export const redacted = '<secret removed>'

/** Committed keys of a script, and the same text without them. */
export class Secrets {
  readonly found: Secret[] = []
  private readonly values = new Set<string>()

  constructor(script: ShellScript) {
    for (const { name, value, place } of script.assigned) {
      if (isSecret(name, value)) this.add(name, value, place)
    }
    for (const { words } of script.commands) this.command(words)
    this.text(script.text)
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
      if (word.text.length < shortestPassword) return
      const assigned = !isOption && word.text.includes('=') ? /^([A-Za-z_]\w*)=(.*)$/s.exec(word.text) : null
      if (inline !== undefined && isSecret(option, inline)) this.add(option, inline, word)
      else if (assigned && isSecret(assigned[1] ?? '', assigned[2] ?? '')) this.add(assigned[1] ?? '', assigned[2] ?? '', word)
      else if (isSecret(option2, word.text)) this.add(option2, word.text, word)
      else if (loginAt !== -1 && at > loginAt && longToken.test(word.text)) this.add(`${words[0]?.text ?? ''} login`, word.text, word)
      else if (word.expanded || word.text.length < shortestKey) return
      else if (knownForm.test(word.text)) this.add('argument', knownForm.exec(word.text)?.[0] ?? word.text, word)
    })
  }

  /** Everything else, comments and documents fed to a command too: what was committed can be read by everybody. */
  private text(text: string): void {
    let lines: Lines | undefined
    for (const { index, groups = {} } of text.matchAll(inside)) {
      const { name, value, scheme, login, bearer, header, form } = groups
      const key = login ?? header ?? form ?? value ?? ''
      if (name !== undefined && !isCommitted(name, key)) continue
      lines ??= new Lines(text)
      const place = lines.at(index)
      const isKnown = this.values.has(key) && this.found.some(({ line }) => line === place.line)
      if (!isKnown) this.add(name ?? scheme ?? bearer ?? 'argument', key, place)
    }
  }
}

/** Whether a pair of name and value in any text is a key; a word after `password:` may be prose. */
function isCommitted(name: string, value: string): boolean {
  return isSecret(name, value) && (!passwordName.test(name) || /\d/.test(value))
}

function isSecret(name: string, value: string): boolean {
  if (value.length < shortestPassword) return false
  if (knownForm.test(value)) return true
  if (!secretName.test(name) || harmlessName.test(name) || value.includes('$')) return false
  if (passwordName.test(name)) return !/^[./~<-]/.test(value)
  return value.length >= shortestKey && /\d/.test(value) && (longToken.test(value) || base64Key.test(value))
}
