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
  } finally {
    closeSync(file)
  }
}

function opened(path: string): number {
  try {
    return openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY)
  } catch (cause) {
    throw new UserError('WEIGHTS_UNREADABLE', `${path}: cannot be opened (${(cause as NodeJS.ErrnoException).code})`, {
      hint: 'check the path and its permissions',
      cause,
    })
  }
}
