import { UserError } from '../domain/errors.ts'

/** A place in a file. Lines and columns count from 1; a place without them is the file, or a command line. */
export interface Place {
  readonly file: string
  readonly line?: number
  readonly column?: number
}

export interface Problem {
  readonly code: string
  readonly place: Place
  /** Dotted path in the file, such as `stages[1].shape.frames`; empty for the whole file. */
  readonly path: string
  /** *expected this, got that*. */
  readonly text: string
  readonly hint?: string
}

/** Collects what is wrong with a file, so that a person sees all of it at once. */
export class Problems {
  readonly #found: Problem[] = []

  add(problem: Problem): void {
    this.#found.push(problem)
  }

  /** Throws one UserError that names every problem, in the order of the file; returns where there is none. */
  refuse(): void {
    if (this.#found.length > 0) throw errorOf(this.#found)
  }
}

/** A UserError about configuration files that also keeps every problem with its place. */
export class ConfigError extends UserError {
  readonly problems: readonly Problem[]

  constructor(code: string, message: string, problems: readonly Problem[], hint: string | undefined) {
    super(code, message, hint === undefined ? {} : { hint })
    this.name = 'ConfigError'
    this.problems = problems
  }

  /** Each problem by itself, its message as a person reads it. */
  messages(): { code: string; message: string; where: Place; path: string; hint?: string }[] {
    return this.problems.map((problem) => {
      const { code, place, path, hint } = problem
      return { code, message: sentence(problem), where: place, path, ...(hint === undefined ? {} : { hint }) }
    })
  }
}

/** The error of one or several problems, with the code of the first. */
export function errorOf(problems: readonly Problem[]): ConfigError {
  const ordered = [...problems].sort(byPlace)
  const [first] = ordered
  if (first === undefined) throw new Error('no problem to report')
  if (ordered.length === 1) return new ConfigError(first.code, sentence(first), ordered, first.hint)
  const lines = ordered.slice(0, mostShown).map((problem) => sentence(problem) + (problem.hint ? ` (${problem.hint})` : ''))
  const more = ordered.length > mostShown ? [`and ${ordered.length - mostShown} more`] : []
  return new ConfigError(first.code, [...lines, ...more].join('\n'), ordered, `correct these ${ordered.length} places`)
}

/** `file:line:column`, as far as it is known. */
export function placeText(place: Place): string {
  return [place.file, place.line, place.column].filter((part) => part !== undefined).join(':')
}

const mostShown = 20

function sentence({ place, path, text }: Problem): string {
  return `${placeText(place)}${path === '' ? '' : ` ${path}`}: ${text}`
}

function byPlace(a: Problem, b: Problem): number {
  return (
    a.place.file.localeCompare(b.place.file) || (a.place.line ?? 0) - (b.place.line ?? 0) || (a.place.column ?? 0) - (b.place.column ?? 0)
  )
}
