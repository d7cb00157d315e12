import { createReadStream, statSync } from 'node:fs'
import { Readable } from 'node:stream'
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import { type Context, Hono } from 'hono'
import { bodyLimit } from 'hono/body-limit'
import { z } from 'zod'
import { UserError } from '../domain/errors.ts'
import { detailsOf, sampleFile } from '../runs/watch/details.ts'
import { lineageOf } from '../runs/watch/lineage.ts'
import type { RunWatch } from '../runs/watch/run-watch.ts'
import { axes, heatMapOf, rowAt, seriesOf } from '../runs/watch/series.ts'
import { diffFor, settingsOf } from '../runs/watch/stage-view.ts'
import { sweepViewOf } from '../runs/watch/sweep-view.ts'
import type { WatchedRuns } from '../runs/watch/watched-runs.ts'
import type { WeightComparer } from '../runs/watch/weight-comparer.ts'
import type { RunsWorld } from '../runs/world.ts'
import { answer } from './answers.ts'
import { act, actionSchema, handOffFor } from './control.ts'
import { type Known, onlyControl, Refusal, type Role } from './guard.ts'
import { LiveRun } from './live.ts'

const mostBodyBytes = 16 * 1024
/** More columns of pixels than any screen has. */
const mostPixels = 8192
const mostColumnsAtOnce = 32

export interface RouteParts {
  readonly world: RunsWorld
  readonly runs: WatchedRuns
  readonly weights: WeightComparer
}

const number = z.coerce.number().refine(Number.isFinite)
const viewQuery = z.strictObject({
  axis: z.enum(axes).default('step'),
  from: number.optional(),
  to: number.optional(),
  width: z.coerce.number().int().min(1).max(mostPixels).default(1000),
})
const seriesQuery = viewQuery.extend({
  columns: z
    .string()
    .max(2000)
    .transform((text) => text.split(','))
    .refine((names) => names.length <= mostColumnsAtOnce),
  smoothing: z.coerce.number().min(0).max(0.9999).default(0),
})
const axisQuery = z.strictObject({ axis: z.enum(axes).default('step') })
const sweepQuery = z.strictObject({ importance: z.enum(['yes', 'no']).default('no') })
const stepQuery = z.strictObject({ step: z.coerce.number().int().nonnegative() })
const diffQuery = z.strictObject({ a: z.string().min(1).max(300), b: z.string().min(1).max(300) })
const handOffQuery = z.strictObject({ name: z.string().max(40) })

/** Every route under `/api`, for those who have a token. */
export function apiRoutes(parts: RouteParts): { api: Hono<Known>; close: () => void } {
  const { world, runs, weights } = parts
  const api = new Hono<Known>()
  const lives = new Map<string, LiveRun>()
  const watchOf = (context: Context) => runs.watch(idOf(context))
  api.get('/session', (context) => answer(context, { role: context.get('role') satisfies Role, runsFolder: world.runsFolder }))
  api.get('/runs', async (context) => answer(context, await runs.list()))
  api.get('/runs/:run', async (context) => answer(context, detailsOf(await watchOf(context), queryOf(context, axisQuery).axis)))
  api.get('/runs/:run/series', async (context) => answer(context, seriesOf(await watchOf(context), ranged(queryOf(context, seriesQuery)))))
  api.get('/runs/:run/heat', async (context) => answer(context, heatMapOf(await watchOf(context), ranged(queryOf(context, viewQuery)))))
  api.get('/runs/:run/row', async (context) => {
    const { step } = queryOf(context, stepQuery)
    const row = rowAt(await watchOf(context), step)
    if (row) return answer(context, { row })
    throw new UserError('STEP_UNKNOWN', `step ${step}: expected a step that was logged, got none of that number`)
  })
  api.get('/runs/:run/stage', async (context) => answer(context, { settings: settingsOf(await watchOf(context)) }))
  api.get('/runs/:run/weights', async (context) => answer(context, await weights.changesOf(await watchOf(context), runs)))
  api.get('/runs/:run/lineage', async (context) => answer(context, lineageOf(await watchOf(context), await runs.list())))
  api.get('/runs/:run/samples/:index', async (context) => sampleAnswer(context, await watchOf(context)))
  api.get('/sweeps/:run', async (context) =>
    answer(context, await sweepViewOf(idOf(context), { importance: queryOf(context, sweepQuery).importance === 'yes' }, world)),
  )
  api.get('/diff', async (context) => {
    const { a, b } = queryOf(context, diffQuery)
    return answer(context, await diffFor(a, b, runs, world))
  })
  api.get('/runs/:run/events', async (context) => follow(context, await watchOf(context), lives))
  api.get('/runs/:run/hand-off', async (context) =>
    answer(context, { handOff: handOffFor((await watchOf(context)).run, queryOf(context, handOffQuery).name) }),
  )
  api.post('/runs/:run/control', onlyControl, limited, async (context) => {
    const { run } = await watchOf(context)
    return answer(context, await act(run, await bodyOf(context), world))
  })
  return { api, close: () => [...lives.values()].map((live) => live.close()) }
}

const limited = bodyLimit({
  maxSize: mostBodyBytes,
  onError: () => {
    throw new Refusal(413, 'BODY_TOO_LARGE', `expected a body of at most ${mostBodyBytes} bytes, got more`, 'send one command')
  },
})

/** Ids become parts of paths further down; nothing that a path gives a meaning to is let through. */
function idOf(context: Context): string {
  const id = context.req.param('run') ?? ''
  if (/^[a-z0-9][\w.-]{0,199}$/i.test(id) && !id.includes('..')) return id
  throw new Refusal(404, 'RUN_UNKNOWN', 'expected the id of a run, got something else', '/api/runs lists the runs')
}

function queryOf<T>(context: Context, schema: z.ZodType<T>): T {
  const parsed = schema.safeParse(context.req.query())
  if (parsed.success) return parsed.data
  const [issue] = parsed.error.issues
  throw new Refusal(400, 'QUERY', `query ${issue?.path.join('.') ?? ''}: ${issue?.message ?? 'invalid'}`, 'see the page’s own requests')
}

function ranged<T extends { from?: number | undefined; to?: number | undefined }>(query: T): T {
  if (query.from === undefined || query.to === undefined || query.from <= query.to) return query
  throw new Refusal(400, 'QUERY', 'query from: expected at most to, got more', 'swap them')
}

async function bodyOf(context: Context): Promise<z.output<typeof actionSchema>> {
  if (!/^application\/json\b/.test(context.req.header('content-type') ?? '')) {
    throw new Refusal(400, 'BODY', 'expected a body of application/json, got another', 'send JSON')
  }
  let value: unknown
  try {
    value = await context.req.json()
  } catch (cause) {
    if (cause instanceof Refusal) throw cause
    throw new Refusal(400, 'BODY', 'expected JSON, got something else', 'send JSON')
  }
  const parsed = actionSchema.safeParse(value)
  if (parsed.success) return parsed.data
  const [issue] = parsed.error.issues
  throw new Refusal(400, 'BODY', `body ${issue?.path.join('.') ?? ''}: ${issue?.message ?? 'invalid'}`, 'see `stagewright --help`')
}

/** A sample video, whole or the range asked for. */
function sampleAnswer(context: Context, watch: RunWatch): Response {
  const text = context.req.param('index') ?? ''
  const path = sampleFile(watch, /^\d{1,9}$/.test(text) ? Number(text) : -1)
  const { size } = statSync(path)
  const [, first, last] = /^bytes=(\d+)-(\d*)$/.exec(context.req.header('range') ?? '') ?? []
  const start = first === undefined ? 0 : Number(first)
  const end = last ? Math.min(Number(last), size - 1) : size - 1
  const isPart = first !== undefined && start <= end
  const stream = Readable.toWeb(createReadStream(path, isPart ? { start, end } : {})) as ReadableStream
  const headers = {
    'content-type': path.endsWith('.mp4') ? 'video/mp4' : 'application/octet-stream',
    'accept-ranges': 'bytes',
    'content-length': String(isPart ? end - start + 1 : size),
  }
  return isPart
    ? context.body(stream, 206, { ...headers, 'content-range': `bytes ${start}-${end}/${size}` })
    : context.body(stream, 200, headers)
}

/** Server-sent events of a run, from what the viewer has seen last. */
function follow(context: Context<Known>, watch: RunWatch, lives: Map<string, LiveRun>): Response {
  const { outgoing } = context.env
  const known = lives.get(watch.run.id)
  const live = known?.watch === watch ? known : new LiveRun(watch)
  lives.set(watch.run.id, live)
  outgoing.writeHead(200, {
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-store',
    'x-content-type-options': 'nosniff',
    'x-accel-buffering': 'no',
  })
  live.join(outgoing, (context.req.header('last-event-id') ?? '').slice(0, 60))
  return RESPONSE_ALREADY_SENT
}
