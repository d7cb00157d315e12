import type { ChildProcess } from 'node:child_process'
import { join } from 'node:path'
import type pythoniaModule from 'pythonia'
import { UserError } from '../domain/errors.ts'
import type { PythonEnvironment } from './environment.ts'

/** An answer of the Python facade. */
interface Answer {
  readonly ok: boolean
  readonly result?: unknown
  readonly error?: {
    readonly type: string
    readonly message: string
    readonly code?: string
    readonly hint?: string
    readonly traceback?: string
  }
}

/** The interpreter ended while a question was open. The next question starts a new one. */
export class InterpreterDied extends Error {
  constructor(how: string, log: string) {
    super(`the Python interpreter ended (${how}); its output is in ${log}`)
    this.name = 'InterpreterDied'
  }
}

/** A Python exception that is no mistake of the user. */
export class PythonFailure extends Error {
  constructor(type: string, message: string, traceback: string) {
    super(`${type}: ${message}\n${traceback}`)
    this.name = 'PythonFailure'
  }
}

const defaultTimeoutMs = 120_000
type Pythonia = typeof pythoniaModule
type Facade = Awaited<ReturnType<Pythonia['python']>>

/**
 * A Python process that answers short questions: one function crosses, text in, text out. It may die at any time and never takes
 * Node with it; it never keeps Node alive on its own. pythonia holds one interpreter per process, so there is one of these.
 */
export class Interpreter {
  readonly #log: string
  readonly #python: Pythonia
  readonly #waiting = new Set<(cause: Error) => void>()
  #watched: ChildProcess | undefined
  #facade: Facade | undefined
  /** Facades of processes that are gone, kept: once collected, pythonia would free what has their number in the process of now. */
  readonly #retired: Facade[] = []

  private constructor(python: Pythonia, log: string) {
    this.#python = python
    this.#log = log
    // A second after a call pythonia frees what it left behind, also in a process that is gone.
    const { com } = python
    const write = com.write.bind(com)
    com.write = (message, answered) => {
      if (com.proc?.connected) write(message, answered)
    }
  }

  /** Loads pythonia, which starts Python at once. `log` takes what Python prints. */
  static async open({ python, pythonPath }: PythonEnvironment, log: string): Promise<Interpreter> {
    const settings: Record<string, string> = {
      PYTHON_BIN: join(pythonPath, 'bridge_python'),
      STAGEWRIGHT_INTERPRETER_PYTHON: python,
      STAGEWRIGHT_INTERPRETER_LOG: log,
    }
    Object.assign(process.env, settings)
    // pythonia prints every message to standard output where this is set.
    const debug = process.env.DEBUG
    delete process.env.DEBUG
    try {
      const module = (await import('pythonia')) as unknown as { default: Pythonia }
      return new Interpreter(module.default, log)
    } finally {
      if (debug !== undefined) process.env.DEBUG = debug
    }
  }

  /** Asks one question. Raises UserErrors of Python, PythonFailure for its bugs, InterpreterDied, and UserError INTERPRETER_TIMEOUT. */
  async invoke(name: string, question: Record<string, unknown>, timeoutMs = defaultTimeoutMs): Promise<unknown> {
    const facade = await this.#guarded(this.#loaded(), timeoutMs, 'start')
    const text = await this.#guarded(
      facade.invoke$(name, JSON.stringify(question), { $timeout: Number.POSITIVE_INFINITY }),
      timeoutMs,
      name,
    )
    const { ok, result, error } = JSON.parse(text) as Answer
    if (ok) return result
    if (error?.code) throw new UserError(error.code, error.message, error.hint ? { hint: error.hint } : {})
    throw new PythonFailure(error?.type ?? 'unknown', error?.message ?? '', error?.traceback ?? '')
  }

  /** Number of the interpreter's process; undefined where none runs. */
  get pid(): number | undefined {
    return this.#watched?.exitCode === null ? this.#watched.pid : undefined
  }

  /** Ends the process; the next question starts a new one. */
  close(): void {
    this.#end('closed')
    this.#watched?.kill('SIGKILL')
  }

  #end(how: string): void {
    if (this.#facade) this.#retired.push(this.#facade)
    this.#facade = undefined
    if (this.#python.com.proc === this.#watched) this.#python.com.proc = null
    for (const reject of [...this.#waiting]) reject(new InterpreterDied(how, this.#log))
  }

  async #loaded(): Promise<Facade> {
    this.#facade ??= await this.#started()
    return this.#facade
  }

  #started(): ReturnType<Pythonia['python']> {
    const facade = this.#python.python('osplan.interpreter')
    const child = this.#python.com.proc
    if (child && child !== this.#watched) this.#watch(child)
    return facade
  }

  #watch(child: ChildProcess): void {
    this.#watched = child
    child.unref()
    child.channel?.unref()
    const loop = (globalThis as { __pythonBridge?: { loop?: NodeJS.Timeout } }).__pythonBridge?.loop
    loop?.unref()
    const died = (how: string) => {
      if (child === this.#watched) this.#end(how)
    }
    child.on('exit', (code, signal) => died(signal ?? `exit code ${code}`))
    child.on('error', (cause) => died(cause.message))
  }

  /** Waits for an answer, the process's end or the time limit, whichever comes first; only a wait keeps Node alive. */
  #guarded<T>(answer: Promise<T>, timeoutMs: number, name: string): Promise<T> {
    this.#watched?.channel?.ref()
    return new Promise<T>((resolve, reject) => {
      const done = () => {
        clearTimeout(clock)
        this.#waiting.delete(fail)
        if (this.#waiting.size === 0) this.#watched?.channel?.unref()
      }
      const fail = (cause: Error) => {
        done()
        reject(cause)
      }
      const clock = setTimeout(() => {
        fail(
          new UserError('INTERPRETER_TIMEOUT', `Python: expected an answer to ${name} within ${timeoutMs / 1000} s, got none`, {
            hint: `see ${this.#log}`,
          }),
        )
        this.close()
      }, timeoutMs)
      this.#waiting.add(fail)
      answer.then(
        (value) => {
          done()
          resolve(value)
        },
        (cause: unknown) =>
          fail(new PythonFailure('pythonia', '', cause instanceof Error ? (cause.stack ?? cause.message) : String(cause))),
      )
    })
  }
}
