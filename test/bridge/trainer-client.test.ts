import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { ConnectionLost, TrainerClient } from '../../src/bridge/trainer-client.ts'

let folder: string
let path: string
let server: Server | undefined
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'client-'))
  path = join(folder, 's.sock')
})
afterEach(() => {
  server?.close()
  rmSync(folder, { recursive: true, force: true })
})

interface Request {
  readonly id: number
  readonly method: string
  readonly params: Record<string, unknown>
}

/** Listens, and answers each request with what `answer` writes. */
async function listening(answer: (request: Request, socket: Socket) => void): Promise<void> {
  server = createServer((socket) => {
    socket.on('data', (data) => {
      for (const line of String(data).trim().split('\n')) answer(JSON.parse(line) as Request, socket)
    })
  })
  await new Promise<void>((resolve) => server?.listen(path, resolve))
}

const say = (socket: Socket, value: unknown) => socket.write(`${JSON.stringify(value)}\n`)
const greeted = ({ id, method }: Request, socket: Socket) => method === 'hello' && say(socket, { jsonrpc: '2.0', id, result: { run: 'r' } })

describe('talking to a trainer', () => {
  test('nobody there is no client', async () => {
    expect(await TrainerClient.connect(path, 'r')).toBeUndefined()
    await listening(() => undefined)
    const left = path
    server?.close()
    expect(await TrainerClient.connect(left, 'r')).toBeUndefined()
  })

  test('one that does not answer the greeting is no client', { timeout: 10_000 }, async () => {
    await listening(() => undefined)
    expect(await TrainerClient.connect(path, 'r')).toBeUndefined()
  })

  test('the trainer of another run is no client', async () => {
    await listening(greeted)
    expect(await TrainerClient.connect(path, 'another')).toBeUndefined()
    const client = await TrainerClient.connect(path, 'r')
    expect(client).toBeDefined()
    client?.close()
  })

  test('another protocol is refused in its own words', async () => {
    await listening(({ id }, socket) => {
      const data = { code: 'PROTOCOL_VERSION', hint: 'use the other version' }
      say(socket, { jsonrpc: '2.0', id, error: { code: -32001, message: 'expected protocol 2, got 1', data } })
    })
    await expect(TrainerClient.connect(path, 'r')).rejects.toMatchObject({ code: 'PROTOCOL_VERSION', hint: 'use the other version' })
  })

  test('answers find their questions in any order and between events', async () => {
    const asked: Request[] = []
    await listening((request, socket) => {
      if (greeted(request, socket)) return
      asked.push(request)
      if (asked.length < 2) return
      say(socket, { seq: 1, ts: 1, attempt: 1, event: 'heartbeat', step: 1 })
      socket.write('no json\n')
      for (const { id, params } of asked.reverse()) {
        const line = `${JSON.stringify({ jsonrpc: '2.0', id, result: params })}\n`
        socket.write(line.slice(0, 10))
        socket.write(line.slice(10))
      }
    })
    const client = await TrainerClient.connect(path, 'r')
    const answers = await Promise.all([client?.call('stop', { after: 1 }), client?.call('stop', { after: 2, reason: 'ü' })])
    expect(answers).toEqual([{ after: 1 }, { after: 2, reason: 'ü' }])
    client?.close()
  })

  test('a trainer that goes away ends the question', async () => {
    await listening((request, socket) => {
      if (!greeted(request, socket)) socket.destroy()
    })
    const client = await TrainerClient.connect(path, 'r')
    await expect(client?.call('stop')).rejects.toBeInstanceOf(ConnectionLost)
    await expect(client?.call('stop')).rejects.toBeInstanceOf(ConnectionLost)
  })
})
