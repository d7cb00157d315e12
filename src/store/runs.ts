import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import { type EngineChoice, engineChoice } from '../domain/engine-choice.ts'
import { UserError } from '../domain/errors.ts'
import { formatVersion, type RunIdentity, runIdentity } from '../domain/protocol.ts'
import type { RunState } from '../domain/run/state.ts'
import { type Stage, stageSchema } from '../domain/stage/schema.ts'
import { makeFolder, writeAtomically } from './files.ts'
import { idsIn, openAll, stamp } from './ids.ts'
import { supervisorJournal } from './journal.ts'
import { RecordFold } from './record-fold.ts'
import { TrainerRecord } from './trainer-record.ts'

const identityName = 'run.json'
const longestSocketPath = 99
const mostDraws = 100
const stampLength = '00000000-000000-'.length
const killSchema = z.object({ by: z.string(), inQueue: z.boolean().default(false) })

/** One run folder. Only `store/` knows what lies where in it. */
export interface Run {
  readonly id: string
  readonly folder: string
  readonly identity: RunIdentity
  readonly stage: Stage
}

/** Paths of a run folder. */
export const filesOf = (folder: string) => ({
  identity: join(folder, identityName),
  stage: join(folder, 'stage.json'),
  origins: join(folder, 'origins.json'),
  trainer: join(folder, 'trainer.jsonl'),
  supervisor: join(folder, 'supervisor.jsonl'),
  lock: join(folder, 'supervisor.lock'),
  replay: join(folder, 'replay.json'),
  commands: join(folder, 'commands'),
  logs: join(folder, 'logs'),
  checkpoints: join(folder, 'checkpoints'),
  samples: join(folder, 'samples'),
  derived: join(folder, 'derived'),
  exit: (attempt: number) => join(folder, `exit-${attempt}.json`),
  kill: (attempt: number) => join(folder, 'commands', `attempt-${attempt}.kill`),
  engine: join(folder, 'engine.json'),
  ranks: join(folder, 'ranks.json'),
  script: (attempt: number) => join(folder, `attempt-${attempt}.sbatch`),
  supervisorLog: join(folder, 'logs', 'supervisor.log'),
  log: (attempt: number) => join(folder, 'logs', `attempt-${attempt}.log`),
})

/** What a new run takes from outside: where runs lie, the time, some random hexadecimal digits, a short folder for sockets. */
export interface RunPlace {
  readonly runsFolder: string
  readonly now: Date
  readonly random: (digits: number) => string
  readonly socketFolder: string
}

/** Makes a run folder with its identity and its stage. */
export function createRun(
  { runsFolder, now, random, socketFolder }: RunPlace,
  stage: Stage,
  identity: Omit<RunIdentity, 'formatVersion' | 'id' | 'stage' | 'createdAt' | 'socket'>,
): Run {
  const socket = socketPath(socketFolder, random(8))
  makeFolder(runsFolder)
  const { id, folder } = newFolder(runsFolder, () => `${stamp(now)}-${stage.name}-${random(4)}`)
  const files = filesOf(folder)
  for (const path of [files.commands, files.logs, files.checkpoints, files.samples, files.derived]) makeFolder(path)
  const complete: RunIdentity = { formatVersion, id, stage: stage.name, createdAt: now.toISOString(), socket, ...identity }
  writeAtomically(files.stage, `${JSON.stringify(stage, null, 1)}\n`)
  writeAtomically(files.identity, `${JSON.stringify(complete, null, 1)}\n`)
  return { id, folder, identity: complete, stage }
}

/** Not with its parents: a folder of that name is another run's, made in the same second. */
function newFolder(runsFolder: string, draw: () => string): { id: string; folder: string } {
  for (let tries = 1; ; tries += 1) {
    const id = draw()
    const folder = join(runsFolder, id)
    try {
      mkdirSync(folder, { mode: 0o700 })
      return { id, folder }
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== 'EEXIST' || tries === mostDraws) throw cause
    }
  }
}

/** Longer paths are cut off silently by the system, and the trainer would listen elsewhere. */
function socketPath(folder: string, name: string): string {
  const path = join(folder, `${name}.sock`)
  if (Buffer.byteLength(path) <= longestSocketPath) return path
  throw new UserError('SOCKET_PATH', `${path}: expected a path of at most ${longestSocketPath} bytes, got ${Buffer.byteLength(path)}`, {
    hint: 'set XDG_RUNTIME_DIR to a shorter folder',
  })
}

/** Opens a run folder. Raises UserError RUN_INVALID where it is not one. */
export function openRun(folder: string): Run {
  const files = filesOf(folder)
  try {
    const identity = runIdentity.parse(JSON.parse(readFileSync(files.identity, 'utf8')))
    const stage = stageSchema.parse(JSON.parse(readFileSync(files.stage, 'utf8')))
    return { id: identity.id, folder, identity, stage }
  } catch (cause) {
    throw new UserError('RUN_INVALID', `${folder}: expected a run folder, got ${reasonOf(cause)}`, {
      cause,
      hint: '`stagewright runs` lists the runs there are',
    })
  }
}

function reasonOf(cause: unknown): string {
  const [issue] = cause instanceof z.ZodError ? cause.issues : []
  if (issue) return `${issue.path.join('.') || 'the file'}: ${issue.message}`
  return cause instanceof Error ? (cause.message.split('\n')[0] ?? '') : String(cause)
}

/** Every run under a folder, oldest first. Folders that are no runs are left alone. */
export function listRuns(runsFolder: string): Run[] {
  return openAll(runsFolder, idsIn(runsFolder, identityName), openRun)
}

/** Runs of one content hash, oldest first. Others are told apart by the text of their identity alone. */
export function runsOfContent(runsFolder: string, contentHash: string): Run[] {
  const names = idsIn(runsFolder, identityName).filter((name) => identityText(join(runsFolder, name)).includes(contentHash))
  return openAll(runsFolder, names, openRun).filter(({ identity }) => identity.contentHash === contentHash)
}

function identityText(folder: string): string {
  try {
    return readFileSync(filesOf(folder).identity, 'utf8')
  } catch {
    return ''
  }
}

/** The run with an id, a unique beginning of one, or `latest`. Raises UserErrors RUN_UNKNOWN and RUN_AMBIGUOUS. */
export function findRun(runsFolder: string, address: string): Run {
  const names = idsIn(runsFolder, identityName)
  if (names.length === 0) {
    throw new UserError('RUN_UNKNOWN', `${address}: expected a run under ${runsFolder}, got none there`, {
      hint: 'train one, or name the folder with --runs',
    })
  }
  const matching =
    address === 'latest'
      ? newestOf(runsFolder, names)
      : names.filter((name) => address !== '' && (name.startsWith(address) || stageAndSuffix(name).startsWith(address)))
  const [only, ...others] = names.includes(address) ? [address] : matching
  if (only === undefined) {
    throw new UserError('RUN_UNKNOWN', `${address}: expected the id of a run, its beginning, or latest, got no such run`, {
      hint: `the newest is ${names.sort().at(-1)}`,
    })
  }
  if (others.length > 0) {
    throw new UserError(
      'RUN_AMBIGUOUS',
      `${address}: expected one run, got ${others.length + 1}: ${[only, ...others].slice(0, 4).join(', ')}`,
      { hint: 'write more of the id' },
    )
  }
  return openRun(join(runsFolder, only))
}

/** An id knows the second; what was made within the same one is told apart by its identity. */
function newestOf(runsFolder: string, names: string[]): string[] {
  const last = names.sort().at(-1) ?? ''
  const sameSecond = names.filter((name) => name.slice(0, stampLength) === last.slice(0, stampLength))
  const createdAt = (name: string) => listableTime(join(runsFolder, name))
  return sameSecond.length === 1 ? [last] : sameSecond.sort((a, b) => (createdAt(a) <= createdAt(b) ? -1 : 1)).slice(-1)
}

function listableTime(folder: string): string {
  try {
    return openRun(folder).identity.createdAt
  } catch {
    return ''
  }
}

function stageAndSuffix(id: string): string {
  return id.slice(stampLength)
}

/** The state of a run by its journals alone; what was kept of the trainer's is not read again. */
export function readState(run: Pick<Run, 'folder'>): RunState {
  const files = filesOf(run.folder)
  // The supervisor first: an end written there means that the trainer has said everything.
  const told = supervisorJournal(files.supervisor).next()
  const record = new TrainerRecord(files)
  record.updateNow()
  const fold = new RecordFold(record)
  fold.take(told)
  return { ...fold.state(), points: fold.points() }
}

/** Where a run trains: this machine where nothing else was chosen. */
export function engineOf(run: Run): EngineChoice {
  const { engine } = filesOf(run.folder)
  if (!existsSync(engine)) return { formatVersion, kind: 'local' }
  const read = engineChoice.safeParse(parsedFile(engine))
  if (read.success) return read.data
  throw new UserError('RUN_INVALID', `${engine}: expected the engine of a run, got ${reasonOf(read.error)}`, {
    hint: `stagewright continue ${run.id} --engine local`,
  })
}

/** Chooses where the next attempts of a run train. */
export function chooseEngine(run: Run, choice: EngineChoice): void {
  writeAtomically(filesOf(run.folder).engine, `${JSON.stringify(choice, null, 1)}\n`)
}

function parsedFile(path: string): unknown {
  try {
    return JSON.parse(readFileSync(path, 'utf8'))
  } catch {
    return undefined
  }
}

/** Removes commands that an earlier attempt has not taken any more. */
export function forgetCommands(run: Run): void {
  const { commands } = filesOf(run.folder)
  for (const name of readdirSync(commands).filter((entry) => entry.endsWith('.json'))) rmSync(join(commands, name), { force: true })
}

/** Removes the folder of a run that was prepared and never started. */
export function discardRun(run: Run): void {
  const files = filesOf(run.folder)
  if (!existsSync(files.supervisor) && !existsSync(files.trainer)) rmSync(run.folder, { recursive: true, force: true })
}

/** Writes what a replay does again: commands, each with the first step that saw it and the number of roll-backs before it. */
export function writeReplay(run: Run, replay: { readonly commands: readonly object[] }): void {
  writeAtomically(filesOf(run.folder).replay, JSON.stringify({ formatVersion, ...replay }))
}

export interface KillRequest {
  readonly by: string
  /** Whether its job had not started (again): taking it out of the queue is an orderly stop. */
  readonly inQueue: boolean
}

/** Who wants an attempt killed; written by whoever asks, read by the supervisor when it records the end. */
export function requestKill(run: Run, attempt: number, request: KillRequest): void {
  writeAtomically(filesOf(run.folder).kill(attempt), JSON.stringify(request))
}

/** Takes back what could not be done. */
export function forgetKill(run: Run, attempt: number): void {
  rmSync(filesOf(run.folder).kill(attempt), { force: true })
}

/** Who asked for an attempt to be killed; undefined where nobody did. */
export function killRequest(run: Run, attempt: number): KillRequest | undefined {
  try {
    return killSchema.parse(JSON.parse(readFileSync(filesOf(run.folder).kill(attempt), 'utf8')))
  } catch {
    return undefined
  }
}

/** What a rank other than the first failed with since a time in seconds: `CODE: message` in a file of its own. */
export function rankFailure(run: Run, since: number): { readonly code: string; readonly message: string } | undefined {
  const { logs } = filesOf(run.folder)
  if (!existsSync(logs)) return undefined
  for (const name of readdirSync(logs).filter((entry) => /^rank-\d+\.failed\.txt$/.test(entry))) {
    const path = join(logs, name)
    const [, code, message] = /^([A-Z_]+): (.*)/.exec(readFileSync(path, 'utf8')) ?? []
    if (code !== undefined && message !== undefined && statSync(path).mtimeMs / 1000 >= since) return { code, message }
  }
  return undefined
}
