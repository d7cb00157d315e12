import { closeSync, existsSync, openSync, readFileSync, readSync, statSync } from 'node:fs'
import type { EndedJob } from './engine.ts'

/*
 * What a job leaves in its run's folder, whichever engine had it.
 */

const tailBytes = 64 * 1024

/** The last lines of a log that are not blank. */
export function lastLines(log: string, lines: number): string[] {
  if (!existsSync(log)) return []
  const size = statSync(log).size
  const file = openSync(log, 'r')
  try {
    const buffer = Buffer.alloc(Math.min(size, tailBytes))
    readSync(file, buffer, 0, buffer.length, size - buffer.length)
    return buffer
      .toString('utf8')
      .split('\n')
      .filter((line) => line.trim() !== '')
      .slice(-lines)
  } finally {
    closeSync(file)
  }
}

/** The end in an exit file; without a status where a power cut left nothing of it. */
export function exitStatus(exitFile: string): EndedJob {
  const { exitCode, futile } = told(exitFile)
  const signal = exitCode !== null && exitCode > 128 ? signalName(exitCode - 128) : null
  return { state: 'ended', exitCode, signal, ...(futile === null ? {} : { futileStarts: futile }) }
}

function told(exitFile: string): { exitCode: number | null; futile: number | null } {
  const numberOf = (value: unknown) => (typeof value === 'number' ? value : null)
  try {
    const { exitCode, futile } = JSON.parse(readFileSync(exitFile, 'utf8')) as { exitCode?: unknown; futile?: unknown }
    return { exitCode: numberOf(exitCode), futile: numberOf(futile) }
  } catch {
    return { exitCode: null, futile: null }
  }
}

const signals: Readonly<Record<number, string>> = {
  1: 'SIGHUP',
  2: 'SIGINT',
  6: 'SIGABRT',
  7: 'SIGBUS',
  9: 'SIGKILL',
  11: 'SIGSEGV',
  15: 'SIGTERM',
}

function signalName(number: number): string {
  return signals[number] ?? `signal ${number}`
}
