import { createHash, timingSafeEqual } from 'node:crypto'
import type { HttpBindings } from '@hono/node-server'
import type { Context, MiddlewareHandler } from 'hono'
import { UserError } from '../domain/errors.ts'

/*
 * Who may ask for what. The server listens on loopback only; what is left is other pages in the same browser: those of other origins, and
 * those whose name was made to point here (DNS rebinding). Tokens travel in a header, so that no page can make a browser send one.
 */

export type Role = 'control' | 'read'

export interface Tokens {
  readonly control: string
  readonly read: string
}

/** What later handlers know of a request. */
export interface Known {
  Bindings: HttpBindings
  Variables: { role: Role }
}

const loopbackNames = new Set(['127.0.0.1', 'localhost', '[::1]'])

/** Refuses requests that name another host, or come from a page of another one. */
export const onlyThisHost: MiddlewareHandler<Known> = async (context, next) => {
  const host = context.env.incoming.headers.host ?? ''
  const name = host.replace(/:\d+$/, '').toLowerCase()
  if (!loopbackNames.has(name)) {
    throw refusal(403, 'HOST', `Host: expected this machine's own name, got ${host.slice(0, 100) || 'none'}`, 'open the printed address')
  }
  const origin = context.req.header('origin')
  if (origin !== undefined && origin !== `http://${host}`) {
    throw refusal(403, 'ORIGIN', 'Origin: expected a page of this server, got another', 'open the printed address')
  }
  if (['cross-site', 'same-site'].includes(context.req.header('sec-fetch-site') ?? '') && context.req.path.startsWith('/api/')) {
    throw refusal(403, 'ORIGIN', 'Sec-Fetch-Site: expected a request of this page, got one of another', 'open the printed address')
  }
  await next()
}

/** Lets those through who have a token, and remembers which. */
export function withToken(tokens: Tokens): MiddlewareHandler<Known> {
  return async (context, next) => {
    const [, given = ''] = /^Bearer (\S{1,200})$/.exec(context.req.header('authorization') ?? '') ?? []
    const role = isSame(given, tokens.control) ? 'control' : isSame(given, tokens.read) ? 'read' : undefined
    if (!role) throw refusal(401, 'TOKEN', 'expected a token of this server, got none or another', 'open the address that was printed')
    context.set('role', role)
    await next()
  }
}

/** Lets only those through who may change something. */
export const onlyControl: MiddlewareHandler<Known> = async (context, next) => {
  if (context.get('role') !== 'control') {
    throw refusal(403, 'READ_ONLY', 'expected the control token, got the one for reading', 'open the control address that was printed')
  }
  await next()
}

/** Equal in a time that says nothing of how much is equal. */
function isSame(given: string, wanted: string): boolean {
  const hash = (text: string) => createHash('sha256').update(text).digest()
  return timingSafeEqual(hash(given), hash(wanted))
}

/** A refusal with its status. */
export class Refusal extends UserError {
  readonly status: 400 | 401 | 403 | 404 | 413

  constructor(status: Refusal['status'], code: string, message: string, hint: string) {
    super(code, message, { hint })
    this.status = status
  }
}

function refusal(status: Refusal['status'], code: string, message: string, hint: string): Refusal {
  return new Refusal(status, code, message, hint)
}

/** Headers of every answer: nothing is loaded from elsewhere, nothing is framed, nothing is kept. */
export const securityHeaders: MiddlewareHandler = async (context: Context, next) => {
  await next()
  context.header('content-security-policy', policy)
  context.header('x-content-type-options', 'nosniff')
  context.header('referrer-policy', 'no-referrer')
  context.header('cross-origin-resource-policy', 'same-origin')
  context.header('cross-origin-opener-policy', 'same-origin')
  context.header('cache-control', 'no-store')
}

const policy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "connect-src 'self'",
  "img-src 'self' data:",
  "media-src 'self' blob:",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ')
