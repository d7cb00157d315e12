/** Exit codes of every command: 0 done or same; 1 a negative answer; 2 could not answer. */
export type ExitCode = 0 | 1 | 2 | 130 | 143

/**
 * A mistake a person can fix. The message says *where: expected this, got that*; the hint is the next thing to do.
 * `code` is upper snake case and never changes once released. Everything that is not a UserError is a bug and keeps its stack.
 */
export class UserError extends Error {
  readonly code: string
  readonly hint: string | undefined
  readonly exitCode: 1 | 2

  constructor(code: string, message: string, options: { hint?: string; exitCode?: 1 | 2; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'UserError'
    this.code = code
    this.hint = options.hint
    this.exitCode = options.exitCode ?? 2
  }
}
