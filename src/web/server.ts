import type { Server } from 'node:http'
import { setPriority } from 'node:os'
import { serve } from '@hono/node-server'
import { Hono } from 'hono'
import { UserError } from '../domain/errors.ts'
import { WatchedRuns } from '../runs/watch/watched-runs.ts'
import { type OwnProgram, WeightComparer } from '../runs/watch/weight-comparer.ts'
import type { RunsWorld } from '../runs/world.ts'
import { failure } from './answers.ts'
import { type Known, onlyThisHost, Refusal, securityHeaders, type Tokens, withToken } from './guard.ts'
import { type PageFiles, pageRoutes } from './page-files.ts'
import { apiRoutes } from './routes.ts'

const lowPriority = 10

export interface WebOptions {
  readonly world: RunsWorld
  readonly tokens: Tokens
  /** 0 takes any free one. */
  readonly port: number
  readonly page: PageFiles
  readonly program: OwnProgram
}

export interface Served {
  readonly port: number
  /** Address for whoever may change something, and for whoever may look. */
  readonly controlUrl: string
  readonly readUrl: string
  readonly close: () => Promise<void>
}

/** Serves the page and its data on loopback. Owns nothing: it can be ended and started again at any time. Raises UserError PORT_TAKEN. */
export async function serveWeb({ world, tokens, port, page, program }: WebOptions): Promise<Served> {
  yieldToTrainers()
  const { api, close: closeApi } = apiRoutes({ world, runs: new WatchedRuns(world), weights: new WeightComparer(program) })
  const app = new Hono<Known>()
  app.onError(failure)
  app.notFound((context) => failure(new Refusal(404, 'NOT_FOUND', 'expected a path of this server, got another', 'open /'), context))
  app.use(securityHeaders)
  app.use(onlyThisHost)
  app.route('/', pageRoutes(page))
  app.use('/api/*', withToken(tokens))
  app.route('/api', api)
  const server = await listening(app, port)
  const bound = (server.address() as { port: number }).port
  const address = (token: string) => `http://127.0.0.1:${bound}/#token=${token}`
  return {
    port: bound,
    controlUrl: address(tokens.control),
    readUrl: address(tokens.read),
    close: () =>
      new Promise((resolve) => {
        closeApi()
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}

/** A trainer on the same machine comes first. */
function yieldToTrainers(): void {
  try {
    setPriority(lowPriority)
  } catch {
    // A system that does not let it: then as everybody else.
  }
}

function listening(app: Hono<Known>, port: number): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = serve({ fetch: app.fetch, hostname: '127.0.0.1', port }, () => resolve(server)) as Server
    server.on('error', (cause: NodeJS.ErrnoException) => {
      if (cause.code !== 'EADDRINUSE') return reject(cause)
      reject(
        new UserError('PORT_TAKEN', `port ${port}: expected a free one, got one in use`, {
          cause,
          hint: 'name another with --port, or let --port 0 find one',
        }),
      )
    })
  })
}
