import { closeSync, existsSync, openSync, readFileSync, readSync, statSync } from 'node:fs'
import { execa } from 'execa'
import { UserError } from '../domain/errors.ts'
import type { ProcessIdentity } from '../domain/protocol.ts'
import type { Engine, Job, JobHandle, JobStatus } from './engine.ts'
import { identityOf, isAlive, isElsewhere, processWith } from './process-identity.ts'

const tailBytes = 64 * 1024
const wrapperName = 'stagewright-run'

/**
 * Runs the launcher and writes its exit status beside the run, so that it is known even when nobody waits: the shell outlives
 * this process, and a temporary file that is renamed is there whole or not at all. TERM is passed on.
 */
const wrapper = `
exit_file="$1"; shift; child=
asked=
trap 'asked=1; kill -TERM $child 2>/dev/null' TERM INT HUP
"$@" & child=$!
[ -z "$asked" ] || kill -TERM "$child"
while :; do
  wait "$child"; rc=$?
  kill -0 "$child" 2>/dev/null || break
done
printf '{"formatVersion":1,"exitCode":%d}\\n' "$rc" > "$exit_file.tmp" && mv "$exit_file.tmp" "$exit_file"
exit "$rc"
`

/** This machine: torchrun as a detached process of its own session. */
export class LocalEngine implements Engine {
  readonly name = 'local'
  readonly #env: Readonly<Record<string, string | undefined>>

  constructor(env: Readonly<Record<string, string | undefined>>) {
    this.#env = env
  }

  async submit(job: Job): Promise<JobHandle> {
    const log = openSync(job.log, 'a', 0o600)
    try {
      // Integer descriptors: a stream through this process would break when it ends.
      const child = execa('/bin/sh', ['-c', wrapper, wrapperName, job.exitFile, ...launchCommand(job)], {
        detached: true,
        cleanup: false,
        buffer: false,
        reject: false,
        stdio: ['ignore', descriptor(log), descriptor(log)],
        cwd: job.runFolder,
        env: launchEnvironment(job, this.#env),
        extendEnv: false,
      })
      const process = child.pid === undefined ? undefined : identityOf(child.pid, { zombies: true })
      child.unref()
      if (!process)
        throw new UserError('LAUNCH_FAILED', `${job.runFolder}: expected the launcher to start, got none`, { hint: `see ${job.log}` })
      return { kind: 'local', process }
    } finally {
      closeSync(log)
    }
  }

  command(job: Job): readonly string[] {
    return launchCommand(job)
  }

  find(exitFile: string): JobHandle | undefined {
    const process = processWith([wrapperName, exitFile])
    return process && { kind: 'local', process }
  }

  observe(handle: JobHandle | undefined, exitFile: string): JobStatus {
    if (handle && isAlive(handle.process)) return { state: 'running' }
    if (!existsSync(exitFile)) {
      return handle && isElsewhere(handle.process) ? { state: 'running' } : { state: 'ended', exitCode: null, signal: null }
    }
    const { exitCode } = JSON.parse(readFileSync(exitFile, 'utf8')) as { exitCode: number }
    return exitCode > 128 ? { state: 'ended', exitCode, signal: signalName(exitCode - 128) } : { state: 'ended', exitCode, signal: null }
  }

  signal(handle: JobHandle, signal: 'TERM' | 'KILL'): void {
    if (isAlive(handle.process)) kill(signal === 'KILL' ? -handle.process.pid : handle.process.pid, signal)
  }

  reconcile(ranks: readonly ProcessIdentity[]): void {
    for (const rank of ranks) if (isAlive(rank)) kill(rank.pid, 'KILL')
  }

  logs(log: string, lines: number): string[] {
    if (!existsSync(log)) return []
    const size = statSync(log).size
    const file = openSync(log, 'r')
    try {
      const buffer = Buffer.alloc(Math.min(size, tailBytes))
      readSync(file, buffer, 0, buffer.length, size - buffer.length)
      return buffer
        .toString('utf8')
        .split('\n')
        .filter((line) => line.trim() !== '')
        .slice(-lines)
    } finally {
      closeSync(file)
    }
  }
}

/** The torchrun line of a job on this machine. */
export function launchCommand(job: Job): string[] {
  return [
    job.python,
    '-m',
    'torch.distributed.run',
    '--standalone',
    '--nnodes=1',
    `--nproc-per-node=${job.processes}`,
    '--max-restarts=0',
    '-m',
    'osplan',
    'train',
    job.runFolder,
    `--attempt=${job.attempt}`,
  ]
}

function launchEnvironment(job: Job, env: Readonly<Record<string, string | undefined>>): Record<string, string> {
  const kept = Object.fromEntries(
    Object.entries(env).filter((entry): entry is [string, string] => entry[1] !== undefined && entry[0] !== 'NODE_CHANNEL_FD'),
  )
  const threads = job.threads === null ? {} : { OMP_NUM_THREADS: String(job.threads) }
  return {
    ...kept,
    ...threads,
    PYTHONPATH: job.pythonPath,
    PYTHONUNBUFFERED: '1',
    PYTHONDONTWRITEBYTECODE: '1',
    TOKENIZERS_PARALLELISM: 'false',
  }
}

/** execa takes any open descriptor; its types know those of the standard streams only. */
function descriptor(file: number): 1 {
  return file as 1
}

function kill(pid: number, signal: 'TERM' | 'KILL'): void {
  try {
    process.kill(pid, `SIG${signal}`)
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'ESRCH') throw cause
  }
}

const signals: Readonly<Record<number, string>> = {
  1: 'SIGHUP',
  2: 'SIGINT',
  6: 'SIGABRT',
  7: 'SIGBUS',
  9: 'SIGKILL',
  11: 'SIGSEGV',
  15: 'SIGTERM',
}

function signalName(number: number): string {
  return signals[number] ?? `signal ${number}`
}
