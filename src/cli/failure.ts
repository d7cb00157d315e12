import { UserError } from '../domain/errors.ts'
import { paintFor, type World } from './terminal.ts'

/** Says what went wrong and returns the exit code: a person's mistake in two lines, a bug with its stack. */
export function render(cause: unknown, world: World): number {
  const { red, dim } = paintFor(world.stderr, world.env)
  if (cause instanceof UserError) {
    world.stderr.write(`${red(cause.message)} ${dim(`[${cause.code}]`)}\n${cause.hint ? `hint: ${cause.hint}\n` : ''}`)
    return cause.exitCode
  }
  const stack = cause instanceof Error ? (cause.stack ?? cause.message) : String(cause)
  world.stderr.write(`${red('This is a bug in Stagewright.')}\n${stack}\n`)
  return 2
}
