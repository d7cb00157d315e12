import { appendFileSync, cpSync, mkdirSync, writeFileSync } from 'node:fs'
import { type IncomingHttpHeaders, request } from 'node:http'
import { join } from 'node:path'
import type { RunIdentity } from '../../src/domain/protocol.ts'
import { defaultStage } from '../../src/domain/stage/fields.ts'
import { type Stage, stageSchema } from '../../src/domain/stage/schema.ts'
import type { RunsWorld } from '../../src/runs/world.ts'
import { createRun, filesOf, type Run } from '../../src/store/runs.ts'
import { type PageFiles, pageFiles } from '../../src/web/page-files.ts'
import { type Served, serveWeb } from '../../src/web/server.ts'
import { journalLines, type Made } from '../store/made-journal.ts'

export const tokens = { control: 'c'.repeat(32), read: 'r'.repeat(32) }
const blankPage: PageFiles = async () => ({ script: 'export {}', style: '' })
export const realPage = pageFiles({ sources: join(import.meta.dirname, '../../src/web/page') })

/** A server over a world's runs, on any free port. */
export function served(world: RunsWorld, page = blankPage, port = 0): Promise<Served> {
  return serveWeb({ world, tokens, port, page, program: async () => '{}' })
}

/** A run with a journal that no trainer wrote; ended where `reason` is given. */
export function madeRun(
  world: Pick<RunsWorld, 'runsFolder' | 'random' | 'socketFolder'>,
  made: Made & {
    name?: string
    reason?: string
    stage?: Partial<Stage>
    parent?: RunIdentity['parent']
    day?: number
    more?: (run: Run) => string
  },
): Run {
  const { runsFolder, random, socketFolder } = world
  const now = new Date(Date.UTC(2026, 0, made.day ?? 1))
  const inputs = { weights: null, vae: null, cache: null, state: null, data: null }
  const stage = stageSchema.parse({ ...defaultStage(made.name ?? 'made'), steps: made.steps, ...made.stage })
  const identity = { recipe: null, verb: 'train', parent: made.parent ?? null, inputs, contentHash: 'none' } as const
  const run = createRun({ runsFolder, now, random, socketFolder }, stage, identity)
  const files = filesOf(run.folder)
  writeJournal(files.trainer, made)
  appendFileSync(files.trainer, made.more?.(run) ?? '')
  const handle = { kind: 'local', process: { pid: 4_000_000, startTime: '1', host: 'nowhere' } }
  const startedAt = made.startedAt ?? 1000
  const lines: object[] = [
    { seq: 0, ts: startedAt - 1, attempt: 0, event: 'opened', formatVersion: 1 },
    { seq: 1, ts: startedAt - 1, attempt: 1, event: 'attempt', engine: 'local', handle, command: [], continuesFrom: null },
  ]
  if (made.reason) {
    const rest = { exitCode: 0, signal: null, step: made.steps, hint: '', log: null }
    const message = `all ${made.steps} steps are done`
    lines.push({ seq: 2, ts: startedAt + 1000, attempt: 1, event: 'ended', reason: made.reason, message, ...rest })
  }
  writeFileSync(files.supervisor, lines.map((line) => `${JSON.stringify(line)}\n`).join(''))
  return run
}

/** In parts, since a string of a million lines is too long for one. */
function writeJournal(path: string, made: Made): void {
  const lines = journalLines(made)
  for (let line = 0; line < lines.length; line += 50_000) appendFileSync(path, lines.slice(line, line + 50_000).join(''))
}

/** Gives a run samples: the same small video under each prompt at each of some steps, as lines of its journal and files. */
export function withSamples(run: Run, video: string, steps: readonly number[], prompts: readonly string[]): string {
  let seq = 1_000_000
  mkdirSync(filesOf(run.folder).samples, { recursive: true })
  const lines = steps.flatMap((step) =>
    prompts.map((prompt, place) => {
      const path = `samples/step-${step}-${place}.mp4`
      cpSync(video, join(run.folder, path))
      return `${JSON.stringify({ seq: seq++, ts: 1500, attempt: 1, event: 'sample', step, path, prompt, weights: 'ema' })}\n`
    }),
  )
  return lines.join('')
}

export interface Answer {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly text: string
  // biome-ignore lint/suspicious/noExplicitAny: a test reads what it expects
  readonly json: any
}

/** One request as any program could make it: every header can be chosen. */
export function ask(
  { port }: Served,
  path: string,
  options: { method?: string; token?: string | null; headers?: Record<string, string>; body?: string | Buffer } = {},
): Promise<Answer> {
  const token = options.token === undefined ? tokens.control : options.token
  const headers = { ...(token === null ? {} : { authorization: `Bearer ${token}` }), ...options.headers }
  return new Promise((resolve, reject) => {
    const call = request({ host: '127.0.0.1', port, path, method: options.method ?? 'GET', headers, agent: false }, (response) => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.on('end', () => {
        const text = Buffer.concat(chunks).toString()
        resolve({
          status: response.statusCode ?? 0,
          headers: response.headers,
          text,
          json: text.startsWith('{') ? JSON.parse(text) : undefined,
        })
      })
    })
    call.on('error', reject)
    call.end(options.body)
  })
}
