import { closeSync, existsSync, openSync, realpathSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { execa } from 'execa'
import { UserError } from '../domain/errors.ts'
import type { ProcessIdentity } from '../domain/protocol.ts'
import type { Engine, Job, JobPlace, JobStatus, LocalHandle, RankPlace } from './engine.ts'
import { identityOf, isAlive, isElsewhere, leadsSession, processesWhere } from './process-identity.ts'
import { exitStatus, lastLines } from './remains.ts'
import { launchCommand, launcherModule, type Rendezvous, trainerEnvironment } from './trainer-command.ts'

const wrapperName = 'stagewright-run'

/**
 * Runs the launcher and writes its exit status beside the run, so that it is known even when nobody waits: the shell outlives
 * this process, and a temporary file that is renamed is there whole or not at all. TERM is passed on. A signal interrupts `wait`, which
 * then does not tell the status of the launcher and is called again; 127 means that it has told it already. A signal is kept for a
 * moment at the start: a child that is not yet another program would take it for its parent's.
 */
const wrapper = `
exit_file="$1"; shift
asked= interrupted=
trap 'asked=1' TERM INT HUP
"$@" & child=$!
sleep 0.1
trap 'interrupted=1; kill -TERM "$child" 2>/dev/null' TERM INT HUP
[ -z "$asked" ] || kill -TERM "$child" 2>/dev/null
rc=
while :; do
  interrupted=; before=$rc
  wait "$child"; rc=$?
  [ "$rc" -ne 127 ] || rc=\${before:-127}
  [ -n "$interrupted" ] || break
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

  async submit(job: Job): Promise<LocalHandle> {
    if (job.nodes > 1 && !meetingOf(job)) throw oneNode(job)
    const log = openSync(job.log, 'a', 0o600)
    try {
      // Integer descriptors: a stream through this process would break when it ends.
      const child = execa('/bin/sh', ['-c', wrapper, wrapperName, job.exitFile, ...this.command(job)], {
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
    return launchCommand(job, meetingOf(job))
  }

  /** The job of an exit file, where it runs here. */
  find(exitFile: string): LocalHandle | undefined {
    const isWrapper = (words: readonly string[]) =>
      words.includes(wrapperName) && isSameFile(words[words.indexOf(wrapperName) + 1], exitFile)
    const process = processesWhere(isWrapper).find(leadsSession)
    return process && { kind: 'local', process }
  }

  render(job: Job): string {
    return `${this.command(job).join(' ')}\n`
  }

  async forecast(job: Job): Promise<string> {
    if (job.nodes > 1 && !meetingOf(job)) throw oneNode(job)
    return 'at once, on this machine'
  }

  async observe(known: LocalHandle | undefined, { exitFile }: JobPlace): Promise<JobStatus> {
    // Whoever wrote it has nothing left to do but to end.
    if (existsSync(exitFile)) return exitStatus(exitFile)
    const handle = known ?? this.find(exitFile)
    if (handle && isAlive(handle.process)) return { state: 'running' }
    if (!existsSync(exitFile)) {
      if (handle && isElsewhere(handle.process)) return { state: 'unseen', why: `it runs on ${handle.process.host}`, untilSilent: true }
      return { state: 'ended', exitCode: null, signal: null }
    }
    return exitStatus(exitFile)
  }

  /** What is started here never waits. */
  async hasten(): Promise<void> {}

  async signal(known: LocalHandle | undefined, { exitFile }: JobPlace, signal: 'TERM' | 'KILL'): Promise<void> {
    const handle = known ?? this.find(exitFile)
    if (handle && isAlive(handle.process)) kill(signal === 'KILL' ? -handle.process.pid : handle.process.pid, signal)
  }

  ranks({ runFolder, attempt }: RankPlace): ProcessIdentity[] {
    const isRank = (words: readonly string[]) => {
      const at = words.indexOf('osplan')
      return words[at + 1] === 'train' && words[at + 3] === `--attempt=${attempt}` && !words.includes(launcherModule)
    }
    return processesWhere((words) => isRank(words) && isSameFile(words[words.indexOf('osplan') + 2], runFolder))
  }

  reconcile(ranks: readonly ProcessIdentity[]): void {
    for (const rank of ranks) if (isAlive(rank)) kill(rank.pid, 'KILL')
  }

  logs(log: string, lines: number): string[] {
    return lastLines(log, lines)
  }
}

/** Where the launchers of a job meet whose first machine this is. */
function meetingOf({ choice }: Job): Rendezvous | undefined {
  return choice.kind === 'local' && choice.meeting ? { ...choice.meeting, nodeRank: '0' } : undefined
}

function oneNode(job: Job): UserError {
  return new UserError('ENGINE_NODES', `parallel.nodes: expected one machine for the local engine, got ${job.nodes}`, {
    hint: 'train with --engine slurm, or start the launcher of each machine with `stagewright launch`',
  })
}

/** Whether two paths name the same file, or will: links may lead there, and the file itself need not be there yet. */
function isSameFile(path: string | undefined, other: string): boolean {
  return path !== undefined && (path === other || realPath(path) === realPath(other))
}

function realPath(path: string): string {
  try {
    return existsSync(path) ? realpathSync(path) : join(realpathSync(dirname(path)), basename(path))
  } catch {
    return path
  }
}

function launchEnvironment(job: Job, env: Readonly<Record<string, string | undefined>>): Record<string, string> {
  const kept = Object.fromEntries(
    Object.entries(env).filter((entry): entry is [string, string] => entry[1] !== undefined && entry[0] !== 'NODE_CHANNEL_FD'),
  )
  const { choice } = job
  const devices = choice.kind === 'local' && choice.devices ? { CUDA_VISIBLE_DEVICES: choice.devices.join(',') } : {}
  return { ...kept, ...devices, ...trainerEnvironment(job) }
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
