import { readFileSync } from 'node:fs'
import { basename } from 'node:path'
import { z } from 'zod'
import { UserError } from '../domain/errors.ts'
import { scalarsOfRecord } from './line-log.ts'
import type { CurveSource, Scalar } from './scalar.ts'

const schema = z.looseObject({ log_history: z.array(z.record(z.string(), z.unknown())) })

/** Whether a path is called as transformers calls the state of its trainer. */
export function isTrainerState(path: string): boolean {
  return /trainer_state.*\.json$/.test(basename(path))
}

/** The history in transformers' `trainer_state.json`; it is written whole, so what is new is what comes after what was read. */
export function trainerState(path: string): CurveSource {
  let taken = 0
  return {
    next: (): Scalar[] => {
      const history = historyOf(path)
      const found = history.slice(taken).flatMap(scalarsOfRecord)
      taken = Math.max(taken, history.length)
      return found
    },
  }
}

function historyOf(path: string): Record<string, unknown>[] {
  try {
    return schema.parse(JSON.parse(readFileSync(path, 'utf8'))).log_history
  } catch (cause) {
    const reason = cause instanceof z.ZodError ? 'no log_history' : 'no JSON'
    throw new UserError('TRAINER_STATE', `${path}: expected the state of transformers’ trainer, got ${reason}`, {
      cause,
      hint: 'name a file that transformers.Trainer wrote',
    })
  }
}
