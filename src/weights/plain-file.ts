import { closeSync, constants, fstatSync, openSync } from 'node:fs'
import { UserError } from '../domain/errors.ts'

/**
 * What a reader makes of a plain file, opened, and its size in bytes. A pipe or a device is refused instead of waited for.
 * Throws UserError WEIGHTS_UNREADABLE.
 */
export function readPlainFile<T>(path: string, read: (file: number, bytes: number) => T): T {
  const file = opened(path)
  try {
    const status = fstatSync(file)
    if (status.isFile()) return read(file, status.size)
    throw new UserError('WEIGHTS_UNREADABLE', `${path}: expected a file`, { hint: 'name a .safetensors file' })
  } catch (cause) {
    throw isOfSystem(cause) ? unreadable(path, 'read', cause) : cause
  } finally {
    closeSync(file)
  }
}

function opened(path: string): number {
  try {
    return openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY)
  } catch (cause) {
    throw unreadable(path, 'opened', cause as NodeJS.ErrnoException)
  }
}

function isOfSystem(cause: unknown): cause is NodeJS.ErrnoException {
  return cause instanceof Error && 'syscall' in cause
}

function unreadable(path: string, done: string, cause: NodeJS.ErrnoException): UserError {
  return new UserError('WEIGHTS_UNREADABLE', `${path}: cannot be ${done} (${cause.code})`, {
    hint: 'check the path and its permissions',
    cause,
  })
}
