import type { ChildProcess } from 'node:child_process'
import { closeSync, existsSync, openSync } from 'node:fs'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { execa } from 'execa'
import type { Engine, Job, JobHandle } from './engine.ts'
import { EngineInFront } from './engine-in-front.ts'
import { identityOf } from './process-identity.ts'
import { trainerEnvironment } from './trainer-command.ts'

const startPatienceMs = 60_000
const answerPatienceMs = 10_000
const startPollMs = 20
/** Room for the command line of a child: the longest path, and the words around it. */
const room = `--room=${'.'.repeat(8192)}`

/** Where a pool lies and what it runs. */
export interface PoolPlace {
  readonly python: string
  readonly pythonPath: string
  /** Path of its socket, under 100 bytes. */
  readonly socket: string
  /** File that takes what it prints. */
  readonly log: string
}

/**
 * A Python that has imported the trainer and forks ranks of jobs of one process. It ends with whoever started it; what it forked goes
 * on. Where it cannot be had, jobs start cold.
 */
export class WarmPool {
  readonly #socket: string
  readonly #child: Pick<ChildProcess, 'kill' | 'pid' | 'exitCode' | 'unref'>
  readonly #ready: Promise<boolean>

  constructor(place: PoolPlace, env: Readonly<Record<string, string | undefined>>) {
    this.#socket = place.socket
    const log = openSync(place.log, 'a', 0o600)
    try {
      this.#child = execa(place.python, ['-u', '-m', 'osplan', 'pool', place.socket, room], {
        buffer: false,
        reject: false,
        // Any open descriptor will do; the types know those of the standard streams only.
        stdio: ['ignore', log as 1, log as 1],
        env: { ...env, ...trainerEnvironment({ threads: null, pythonPath: place.pythonPath }), NODE_CHANNEL_FD: undefined },
        extendEnv: false,
      })
    } finally {
      closeSync(log)
    }
    this.#child.unref()
    this.#ready = this.#started()
  }

  /** Forks the launcher of a job; undefined where that cannot be. */
  async fork(job: Job, environment: Readonly<Record<string, string>>): Promise<number | undefined> {
    if (!(await this.#ready)) return undefined
    const { runFolder: run, attempt, log, exitFile } = job
    try {
      const answer = await this.#asked(JSON.stringify({ run, attempt, log, exitFile, environment }))
      const { pid } = JSON.parse(answer) as { pid?: unknown }
      return typeof pid === 'number' ? pid : undefined
    } catch {
      return undefined
    }
  }

  /** Ends the parent; what it forked goes on. */
  close(): void {
    this.#child.kill('SIGKILL')
  }

  async #started(): Promise<boolean> {
    const until = Date.now() + startPatienceMs
    while (!existsSync(this.#socket)) {
      if (this.#child.exitCode !== null || this.#child.pid === undefined || Date.now() > until) return false
      await sleep(startPollMs)
    }
    return true
  }

  #asked(line: string): Promise<string> {
    return new Promise((resolve, reject) => {
      const socket = connect(this.#socket)
      let answer = ''
      socket.setTimeout(answerPatienceMs, () => socket.destroy(new Error('no answer')))
      socket.on('connect', () => socket.write(`${line}\n`))
      socket.on('data', (data) => {
        answer += String(data)
      })
      socket.on('error', reject)
      socket.on('close', () => (answer.endsWith('\n') ? resolve(answer) : reject(new Error('no answer'))))
    })
  }
}

/** An engine whose jobs of one process on this machine are forked from a pool. Handles are those of this machine: nobody else need know. */
export class PooledEngine extends EngineInFront {
  readonly #pool: WarmPool
  readonly #env: Readonly<Record<string, string | undefined>>

  constructor(engine: Engine, pool: WarmPool, env: Readonly<Record<string, string | undefined>>) {
    super(engine)
    this.#pool = pool
    this.#env = env
  }

  override async submit(job: Job): Promise<JobHandle> {
    const isSmall = job.engine === 'local' && job.processes === 1 && job.nodes === 1
    const pid = isSmall ? await this.#pool.fork(job, this.#environment(job)) : undefined
    const process = pid === undefined ? undefined : identityOf(pid, { zombies: true })
    return process ? { kind: 'local', process } : super.submit(job)
  }

  #environment(job: Job): Record<string, string> {
    const kept = Object.entries(this.#env).filter(
      (entry): entry is [string, string] => entry[1] !== undefined && entry[0] !== 'NODE_CHANNEL_FD',
    )
    return { ...Object.fromEntries(kept), ...trainerEnvironment(job) }
  }
}
