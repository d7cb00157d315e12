import type { Context } from 'hono'
import { UserError } from '../domain/errors.ts'
import { Refusal } from './guard.ts'

const formatVersion = 1

/** An answer for a program. */
export function answer(context: Context, value: object): Response {
  return context.body(jsonText({ formatVersion, ...value }), 200, { 'content-type': 'application/json; charset=utf-8' })
}

/** JSON in which numbers it cannot hold are tags. */
export function jsonText(value: object): string {
  return JSON.stringify(value, tagged)
}

function tagged(_: string, value: unknown): unknown {
  if (typeof value !== 'number' || Number.isFinite(value)) return value
  return { $f: Number.isNaN(value) ? 'nan' : value > 0 ? 'inf' : '-inf' }
}

const missing = new Set(['RUN_UNKNOWN', 'SWEEP_UNKNOWN', 'SAMPLE_UNKNOWN', 'CHECKPOINT_MISSING', 'COLUMN_UNKNOWN', 'STEP_UNKNOWN'])

/** What a request that failed is told: a person's mistake as it is, a bug without its inside. */
export function failure(cause: unknown, context: Context): Response {
  if (cause instanceof UserError) {
    const status = cause instanceof Refusal ? cause.status : missing.has(cause.code) ? 404 : 400
    return context.json({ formatVersion, error: { code: cause.code, message: cause.message, hint: cause.hint ?? null } }, status)
  }
  process.stderr.write(`${context.req.method} ${context.req.path}: ${cause instanceof Error ? cause.stack : String(cause)}\n`)
  const message = 'the server could not answer; its terminal says why'
  return context.json({ formatVersion, error: { code: 'SERVER_BUG', message, hint: null } }, 500)
}
