import { createConnection, type Socket } from 'node:net'
import { UserError } from '../domain/errors.ts'
import { protocolVersion } from '../domain/protocol.ts'

const connectTimeoutMs = 1000
/** A trainer answers a greeting from a thread of its own, whatever it computes. */
const helloTimeoutMs = 5000

/** The connection ended before an answer came. */
export class ConnectionLost extends Error {}

interface Reply {
  readonly id?: number | null
  readonly result?: unknown
  readonly error?: { readonly code: number; readonly message: string; readonly data?: { readonly code?: string; readonly hint?: string } }
}

/** A conversation with a running trainer over its socket: JSON-RPC 2.0, one message a line. */
export class TrainerClient {
  readonly #socket: Socket
  readonly #waiting = new Map<number, { resolve: (value: unknown) => void; reject: (cause: Error) => void }>()
  #next = 1
  #rest = ''

  private constructor(socket: Socket) {
    this.#socket = socket
    socket.setEncoding('utf8')
    socket.on('data', (chunk: string) => this.#take(chunk))
    socket.on('error', (cause) => this.#fail(new ConnectionLost(cause.message)))
    socket.on('close', () => this.#fail(new ConnectionLost('the trainer closed the connection')))
  }

  /** Connects to the trainer of a run and shakes hands; undefined where nobody answers, or another run's. Raises UserError PROTOCOL_VERSION. */
  static async connect(path: string, run: string): Promise<TrainerClient | undefined> {
    const socket = await connected(path)
    if (!socket) return undefined
    const client = new TrainerClient(socket)
    const clock = setTimeout(() => socket.destroy(), helloTimeoutMs)
    try {
      const greeting = (await client.call('hello', { protocol: protocolVersion })) as { readonly run?: unknown }
      if (greeting.run === run) return client
      client.close()
      return undefined
    } catch (cause) {
      client.close()
      if (cause instanceof ConnectionLost) return undefined
      throw cause
    } finally {
      clearTimeout(clock)
    }
  }

  /** Calls a method. A command's answer comes when it has taken effect. Raises UserErrors of the trainer. */
  call(method: string, params: Record<string, unknown> = {}): Promise<unknown> {
    const id = this.#next++
    return new Promise((resolve, reject) => {
      if (this.#socket.destroyed) {
        reject(new ConnectionLost('the connection has ended'))
        return
      }
      this.#waiting.set(id, { resolve, reject })
      this.#socket.write(`${JSON.stringify({ jsonrpc: '2.0', id, method, params })}\n`)
    })
  }

  close(): void {
    this.#socket.removeAllListeners('close')
    this.#socket.destroy()
  }

  #take(chunk: string): void {
    const lines = (this.#rest + chunk).split('\n')
    this.#rest = lines.pop() ?? ''
    for (const line of lines) this.#answer(line)
  }

  #answer(line: string): void {
    let reply: Reply
    try {
      reply = JSON.parse(line) as Reply
    } catch {
      return
    }
    const waiting = typeof reply.id === 'number' ? this.#waiting.get(reply.id) : undefined
    if (!waiting || typeof reply.id !== 'number') return
    this.#waiting.delete(reply.id)
    if (reply.error) waiting.reject(errorOf(reply.error))
    else waiting.resolve(reply.result)
  }

  #fail(cause: Error): void {
    for (const { reject } of this.#waiting.values()) reject(cause)
    this.#waiting.clear()
  }
}

function errorOf({ message, data }: NonNullable<Reply['error']>): Error {
  return data?.code ? new UserError(data.code, message, data.hint ? { hint: data.hint } : {}) : new Error(message)
}

function connected(path: string): Promise<Socket | undefined> {
  return new Promise((resolve) => {
    const socket = createConnection(path)
    const clock = setTimeout(() => {
      socket.destroy()
      resolve(undefined)
    }, connectTimeoutMs)
    socket.once('connect', () => {
      clearTimeout(clock)
      resolve(socket)
    })
    socket.once('error', () => {
      clearTimeout(clock)
      resolve(undefined)
    })
  })
}
