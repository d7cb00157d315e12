import { appendFileSync, mkdirSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { request } from 'node:http'
import { connect } from 'node:net'
import { join } from 'node:path'
import fc from 'fast-check'
import { expect } from 'vitest'
import { filesOf, readState } from '../../src/store/runs.ts'
import { webTokens } from '../../src/store/web-tokens.ts'
import { apiRoutes, type RouteParts } from '../../src/web/routes.ts'
import type { Served } from '../../src/web/server.ts'
import { fakeWorld, folderTest } from '../runs/fake-world.ts'
import { ask, madeRun, served, tokens } from './web-world.ts'

const test = folderTest.extend<{ server: Served; id: string }>({
  id: async ({ folder }, use) => use(madeRun(fakeWorld(folder), { steps: 30, reason: 'completed' }).id),
  server: async ({ folder, id: _ }, use) => {
    const server = await served(fakeWorld(folder))
    await use(server)
    await server.close()
  },
})

/** What a route must be asked with to be answered. */
const queries: Readonly<Record<string, string>> = {
  '/runs/:run/series': '?columns=loss',
  '/runs/:run/row': '?step=3',
  '/runs/:run/hand-off': '?name=stop',
  '/diff': '?a=defaults&b=defaults',
}

/** Every route there is, by the router itself: a new one cannot be forgotten here. */
const routes = (() => {
  const parts = { world: {}, runs: {}, weights: {} } as unknown as RouteParts
  const listed = apiRoutes(parts).api.routes.map(({ method, path }) => ({ method, path }))
  return listed.filter(({ path }, place) => listed.findIndex((other) => other.path === path) === place)
})()

const filled = (path: string, id: string, index = '0') => `/api${path.replace(':run', id).replace(':index', index)}`

const routesOf = (id: string) => routes.flatMap(({ method, path }) => (method === 'GET' ? [filled(path, id) + (queries[path] ?? '')] : []))

/** The status alone, and nothing of a body that may never end. */
function statusOf(server: Served, path: string, method = 'GET', body?: string): Promise<number> {
  const headers = { authorization: `Bearer ${tokens.control}`, 'content-type': 'application/json' }
  return new Promise((resolve, reject) => {
    const call = request({ host: '127.0.0.1', port: server.port, path, method, headers, agent: false }, (response) => {
      resolve(response.statusCode ?? 0)
      response.destroy()
    })
    call.on('error', reject)
    call.end(body)
  })
}

test('every route is known to these tests, and only control changes anything', () => {
  expect(routes.filter(({ method }) => method !== 'GET')).toEqual([{ method: 'POST', path: '/runs/:run/control' }])
  expect(routes.length).toBeGreaterThan(12)
  expect(Object.keys(queries).filter((path) => !routes.some((route) => route.path === path))).toEqual([])
})

test('without a token, or with a wrong one, nothing is told', async ({ server, id }) => {
  for (const { method, path } of routes) {
    for (const token of [null, 'x'.repeat(32), `${tokens.control}\u00e9`]) {
      expect([path, (await ask(server, filled(path, id), { method, token })).status]).toEqual([path, 401])
    }
  }
  for (const path of routesOf(id)) {
    for (const token of [null, '', 'x'.repeat(32), `${tokens.read}x`]) {
      const { status, json } = await ask(server, path, { token })
      expect([path, status, json.error.code]).toEqual([path, 401, 'TOKEN'])
    }
  }
  expect((await ask(server, '/api/runs', { token: null, headers: { authorization: 'Basic Zm9v' } })).status).toBe(401)
  expect((await ask(server, `/api/runs?token=${tokens.read}`, { token: null })).status).toBe(401)
})

test('a name that was made to point here is refused, also with the token', async ({ server, id }) => {
  for (const host of ['evil.example', `evil.example:${server.port}`, '127.0.0.1.evil.example', 'localhost.evil.example', '0.0.0.0']) {
    for (const path of ['/', '/page.js', ...routesOf(id)]) {
      expect([host, (await ask(server, path, { headers: { host } })).status]).toEqual([host, 403])
    }
  }
  for (const host of ['localhost', '127.0.0.1:9999', '[::1]:80']) {
    expect((await ask(server, '/api/session', { headers: { host } })).status).toBe(200)
  }
})

test('a page of another origin is refused, also with the token', async ({ server, id }) => {
  const own = `127.0.0.1:${server.port}`
  for (const origin of [
    'http://evil.example',
    'null',
    'https://127.0.0.1',
    `http://127.0.0.1:${server.port + 1}`,
    `http://localhost:${server.port}`,
  ]) {
    for (const path of routesOf(id)) expect((await ask(server, path, { headers: { host: own, origin } })).status).toBe(403)
    const body = JSON.stringify({ name: 'stop' })
    const call = { method: 'POST', body, headers: { host: own, origin, 'content-type': 'application/json' } }
    expect((await ask(server, `/api/runs/${id}/control`, call)).status).toBe(403)
  }
  expect((await ask(server, '/api/runs', { headers: { 'sec-fetch-site': 'cross-site' } })).status).toBe(403)
  expect((await ask(server, '/api/runs', { headers: { host: own, origin: `http://${own}` } })).status).toBe(200)
  const preflight = await ask(server, '/api/runs', { method: 'OPTIONS', headers: { origin: 'http://evil.example' } })
  expect(preflight.headers['access-control-allow-origin']).toBeUndefined()
})

test('who may only look changes nothing', async ({ server, id, folder }) => {
  const before = statSync(join(folder, 'runs', id, 'supervisor.jsonl')).size
  for (const name of ['set', 'stop', 'pause', 'checkpoint', 'sample', 'continue']) {
    const call = { method: 'POST', token: tokens.read, body: JSON.stringify({ name }), headers: { 'content-type': 'application/json' } }
    expect((await ask(server, `/api/runs/${id}/control`, call)).json.error.code).toBe('READ_ONLY')
  }
  expect(statSync(join(folder, 'runs', id, 'supervisor.jsonl')).size).toBe(before)
  expect((await ask(server, '/api/session', { token: tokens.read })).json.role).toBe('read')
  for (const method of ['PUT', 'DELETE', 'PATCH']) {
    expect((await ask(server, `/api/runs/${id}/control`, { method })).status).toBe(404)
  }
})

/** A path that means another route once its dots are gone. */
const isHarmless = (path: string) => new URL(path, 'http://here').pathname !== path

test('no path leads out of the runs', async ({ server, id, folder }) => {
  writeFileSync(join(folder, 'secret.json'), '{"secret":1}')
  const climbing = [
    '..',
    '../..',
    '%2e%2e',
    '%2e%2e%2f%2e%2e',
    '..%2fsecret',
    '..%5c..',
    '%00',
    '.',
    'runs/..',
    '/etc/passwd',
    '%2fetc%2fpasswd',
    '%252e%252e%252fsecret',
    '%c0%ae%c0%ae%c0%af',
    '..;/',
    'sweeps%2f..%2f..',
    '%',
    '%zz',
    '~',
  ]
  for (const part of climbing) {
    const asked = routes.flatMap(({ method, path }) => [
      ...(path.includes(':run') ? [{ method, path: filled(path, part) + (queries[path] ?? '') }] : []),
      ...(path.includes(':index') ? [{ method, path: filled(path, id, part) }] : []),
    ])
    for (const { method, path } of [...asked, { method: 'GET', path: `/page.js/${part}` }]) {
      const { status, text } = await ask(server, path, { method, headers: { 'content-type': 'application/json' }, body: '{"name":"stop"}' })
      expect([path, isHarmless(path) || [400, 404].includes(status)]).toEqual([path, true])
      expect(text).not.toContain('secret":1')
      expect(text).not.toContain('root:')
    }
  }
  const files = [
    '../secret.json',
    '/etc/passwd',
    'configs/recipes/quickstart.yaml',
    'a.sh',
    'v1.3.1:../../etc/passwd',
    'file:///etc/passwd',
  ]
  for (const address of files) {
    const { status, json } = await ask(server, `/api/diff?a=${encodeURIComponent(address)}&b=${id}`)
    expect([address, status >= 400 && status < 500, json.error.code]).toEqual([address, true, expect.any(String)])
  }
})

test('a journal cannot make the page hand out other files', async ({ server, id, folder }) => {
  const run = join(folder, 'runs', id)
  mkdirSync(join(run, 'samples'), { recursive: true })
  writeFileSync(join(folder, 'secret.mp4'), 'secret')
  symlinkSync(join(folder, 'secret.mp4'), join(run, 'samples', 'link.mp4'))
  writeFileSync(join(run, 'samples', 'real.mp4'), '0123456789')
  const paths = [
    '../../secret.mp4',
    join(folder, 'secret.mp4'),
    'samples/link.mp4',
    'samples/../run.json',
    'run.json',
    'samples',
    'samples/real.mp4',
  ]
  paths.forEach((path, place) => {
    const line = { seq: 900 + place, ts: 1, attempt: 1, event: 'sample', step: place, path, prompt: 'p', weights: 'raw' }
    appendFileSync(join(run, 'trainer.jsonl'), `${JSON.stringify(line)}\n`)
  })
  const answers = await Promise.all(paths.map((_, place) => ask(server, `/api/runs/${id}/samples/${place}`)))
  expect(answers.map(({ status }) => status)).toEqual([404, 404, 404, 404, 404, 404, 200])
  const part = await ask(server, `/api/runs/${id}/samples/6`, { headers: { range: 'bytes=2-4' } })
  expect([part.status, part.text, part.headers['content-range']]).toEqual([206, '234', 'bytes 2-4/10'])
})

test('bodies that are too large, malformed or of another kind are refused', async ({ server, id }) => {
  const path = `/api/runs/${id}/control`
  const json = { 'content-type': 'application/json' }
  const post = (body: string, headers: Record<string, string> = json) => ask(server, path, { method: 'POST', body, headers })
  expect((await post(JSON.stringify({ name: 'set', path: 'learningRate', value: 'x'.repeat(20_000) }))).status).toBe(413)
  expect((await post('x'.repeat(17_000), { ...json, 'transfer-encoding': 'chunked' })).status).toBe(413)
  for (const body of [
    '',
    '{',
    'null',
    '[]',
    '"stop"',
    '{"name":"rm"}',
    '{"name":"stop","extra":1}',
    '{"name":"set"}',
    '{"name":"stop","after":-1}',
    '\u0000',
  ]) {
    expect([body, (await post(body)).status]).toEqual([body, 400])
  }
  expect((await post('name=stop', { 'content-type': 'application/x-www-form-urlencoded' })).status).toBe(400)
  expect((await post('{"name":"stop"}', { 'content-type': 'text/plain' })).status).toBe(400)
  expect((await ask(server, `/api/runs/${'a'.repeat(5000)}`)).status).toBe(404)
  expect((await ask(server, `/api/runs?${'a'.repeat(40_000)}`)).status).toBeGreaterThanOrEqual(400)
  expect((await ask(server, '/api/session')).status).toBe(200)
})

test('every route answers or refuses whatever it is asked with, never by a bug', async ({ server, id }) => {
  const value = fc.oneof(
    fc.string(),
    fc.double().map(String),
    fc.constantFrom('1e309', '-1', '0', 'NaN', 'loss,loss', 'step', '9'.repeat(30), 'bin.0', '__proto__', 'x'.repeat(3000)),
  )
  const key = fc.constantFrom('columns', 'axis', 'from', 'to', 'width', 'smoothing', 'step', 'name', 'a', 'b', 'else', '__proto__')
  const segment = fc.oneof(
    fc.constant(id),
    fc.string().map((text) => encodeURIComponent(text)),
    fc.stringMatching(/^[%.a-z0-9]{1,12}$/),
  )
  const body = fc.oneof(
    fc.json(),
    fc.string(),
    fc.record({ name: fc.constantFrom('set', 'stop'), path: fc.string(), value: fc.jsonValue() }).map((made) => JSON.stringify(made)),
  )
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...routes),
      segment,
      segment,
      fc.dictionary(key, value, { maxKeys: 5 }),
      body,
      async (route, run, index, query, text) => {
        const path = `${filled(route.path, run, index)}?${new URLSearchParams(query)}`
        const status = await statusOf(server, path, route.method, route.method === 'POST' ? text : undefined)
        expect([path, status < 500]).toEqual([path, true])
      },
    ),
    { numRuns: 400 },
  )
  expect((await ask(server, '/api/session')).status).toBe(200)
})

test('bytes that are no request end a connection and nothing else', async ({ server }) => {
  for (const bytes of [
    '\0\0\0\0',
    'GET / HTTP/9.9\r\n\r\n',
    `GET /${'x'.repeat(100_000)} HTTP/1.1\r\n\r\n`,
    'POST /api/runs HTTP/1.1\r\nContent-Length: -5\r\n\r\n',
  ]) {
    await new Promise<void>((resolve) => {
      const socket = connect(server.port, '127.0.0.1', () => socket.end(bytes))
      socket.on('close', () => resolve())
      socket.on('error', () => resolve())
      socket.resume()
    })
  }
  expect((await ask(server, '/api/session')).status).toBe(200)
})

test('every answer forbids other origins, frames and guessing', async ({ server, id }) => {
  for (const path of ['/', '/page.js', '/nowhere', ...routesOf(id).filter((route) => !route.endsWith('/events'))]) {
    const { headers } = await ask(server, path)
    expect([path, headers['x-content-type-options'], headers['content-security-policy']]).toEqual([
      path,
      'nosniff',
      expect.stringContaining("default-src 'none'"),
    ])
    expect(headers['access-control-allow-origin']).toBeUndefined()
  }
})

test('tokens are kept for the owner alone, and a server that starts again has the same', ({ folder }) => {
  let digit = 0
  const random = (digits: number) => String(digit++ % 10).repeat(digits)
  const first = webTokens(folder, random, { renew: false })
  expect(first.control).not.toBe(first.read)
  expect(webTokens(folder, random, { renew: false })).toEqual(first)
  expect(statSync(join(folder, '.web-tokens.json')).mode & 0o777).toBe(0o600)
  expect(webTokens(folder, random, { renew: true }).control).not.toBe(first.control)
  writeFileSync(join(folder, '.web-tokens.json'), '{"formatVersion":1,"control":"","read":""}')
  expect(() => webTokens(folder, random, { renew: false })).toThrow(expect.objectContaining({ code: 'TOKENS_INVALID' }))
})

test('looking at a run writes nothing but derived files', async ({ server, id, folder }) => {
  const run = readState({ folder: join(folder, 'runs', id) } as never)
  for (const path of routesOf(id).filter((route) => !route.endsWith('/events'))) await ask(server, path)
  expect(readState({ folder: join(folder, 'runs', id) } as never)).toEqual(run)
  expect(statSync(filesOf(join(folder, 'runs', id)).commands).isDirectory()).toBe(true)
})
