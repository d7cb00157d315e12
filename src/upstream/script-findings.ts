import type { Finding, Severity } from '../domain/stage/origin.ts'
import type { Secrets } from './secrets.ts'
import type { ShellScript } from './shell.ts'
import type { Place } from './shell-lines.ts'

/** What is wrong with a script as bash reads it, whatever it starts. */
export function scriptFindings(shell: ShellScript, secrets: Secrets, file: string): Finding[] {
  const finding = (
    rule: string,
    severity: Severity,
    { line, column }: Place,
    message: string,
    hint: string,
    paths: readonly string[] = [],
  ) => ({
    rule,
    severity,
    message,
    where: { file, line, column },
    paths,
    hint,
  })
  const syntax = shell.errors.map((error) =>
    finding('shell-syntax', 'error', error, `bash: ${secrets.without(error.message)}`, 'correct the script'),
  )
  const keys = secrets.found.map((secret) =>
    finding(
      'secret-in-script',
      'warn',
      secret,
      `${secret.name}: expected no key in a script, got one`,
      'revoke it, and read it from the environment',
      [secret.name],
    ),
  )
  const orphans = shell.commands
    .filter(({ words }) => /^--?[A-Za-z]/.test(words[0]?.text ?? ''))
    .map((command) =>
      finding(
        'orphaned-flags',
        'error',
        command,
        `${secrets.without(command.words[0]?.text ?? '')}: expected a command, got a flag; the command above ended early and this line is not part of it`,
        'look for a missing backslash, a blank after one, or a comment between the lines',
        command.words.flatMap(({ text }) => /^--?([A-Za-z][\w.-]*)/.exec(text)?.[1] ?? []),
      ),
    )
  const returns = shell.carriageReturn
    ? [
        finding(
          'carriage-return',
          'warn',
          shell.carriageReturn,
          'lines end as on Windows: bash takes the carriage return for a part of the last word, and a backslash before it joins no lines',
          'sed -i "s/\\r$//" on the script; here it was read as if that were done',
        ),
      ]
    : []
  const marks = shell.hasByteOrderMark
    ? [
        finding(
          'byte-order-mark',
          'warn',
          { line: 1, column: 1 },
          'the file begins with a byte order mark, which bash takes for a part of the first word',
          'save it as UTF-8 without one',
        ),
      ]
    : []
  return [...syntax, ...keys, ...orphans, ...returns, ...marks]
}

/** Launchers whose command ends in a backslash and a blank before it names a program. */
export function cutLaunches({ commands }: ShellScript, file: string): Finding[] {
  return commands.flatMap(({ words }) => {
    const last = words.at(-1)
    if (!last || !/^[ \t]+$/.test(last.text) || !/^(?:accelerate|torchrun|deepspeed|python[\d.]*)$/.test(words[0]?.text ?? '')) return []
    return [
      {
        rule: 'stray-backslash-space',
        severity: 'error',
        message: 'line ends in a backslash and a blank: bash ends the command here',
        where: { file, line: last.line, column: last.column },
        paths: [],
        hint: 'remove the blank after the backslash',
      },
    ]
  })
}
