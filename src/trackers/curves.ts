import { existsSync, readdirSync, statSync } from 'node:fs'
import { basename, join } from 'node:path'
import { UserError } from '../domain/errors.ts'
import { EventFile } from './event-file.ts'
import { LineLog } from './line-log.ts'
import type { CurveSource, Scalar } from './scalar.ts'
import { isTrainerState, trainerState } from './trainer-state.ts'

const eventFileName = /tfevents/

/**
 * Opens a log by what it is: event files (one, or a folder of them), `trainer_state.json`, or lines of JSON. Raises UserErrors
 * CURVES_MISSING and CURVES_FORM.
 */
export function openCurves(path: string): CurveSource {
  if (!existsSync(path)) throw new UserError('CURVES_MISSING', `${path}: expected a log, got nothing there`, { hint: 'check the path' })
  if (statSync(path).isDirectory()) return openFolder(path)
  if (eventFileName.test(basename(path))) return new EventSource(() => [path])
  if (isTrainerState(path)) return trainerState(path)
  if (/\.(jsonl|ndjson|log|txt)$/.test(path)) return new LineLog(path)
  throw new UserError('CURVES_FORM', `${path}: expected event files, trainer_state.json or lines of JSON, got another file`, {
    hint: 'lines of JSON need a name that ends in .jsonl',
  })
}

function openFolder(folder: string): CurveSource {
  const eventFiles = () =>
    readdirSync(folder, { recursive: true, encoding: 'utf8' })
      .filter((name) => eventFileName.test(basename(name)))
      .sort()
      .map((name) => join(folder, name))
  if (eventFiles().length > 0) return new EventSource(eventFiles)
  const state = join(folder, 'trainer_state.json')
  if (existsSync(state)) return trainerState(state)
  throw new UserError('CURVES_MISSING', `${folder}: expected event files or trainer_state.json in it, got neither`, {
    hint: 'name the file itself',
  })
}

/** Event files of one run in the order of their names, which begin with the time they were opened; new ones are found as they come. */
class EventSource implements CurveSource {
  readonly #paths: () => readonly string[]
  readonly #files = new Map<string, EventFile>()

  constructor(paths: () => readonly string[]) {
    this.#paths = paths
  }

  next(): Scalar[] {
    const found: Scalar[] = []
    for (const path of this.#paths()) {
      const file = this.#files.get(path) ?? new EventFile(path)
      this.#files.set(path, file)
      file.next((tag, step, wallTime, value) => found.push({ tag, step, wallTime, value }))
    }
    return found
  }
}
