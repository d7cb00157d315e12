import { createHash } from 'node:crypto'
import { basename, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { UserError } from '../domain/errors.ts'
import { defaultStage } from '../domain/stage/fields.ts'
import { type Stage, stageSchema } from '../domain/stage/schema.ts'
import { JournalWriter, SupervisorJournal } from '../store/journal.ts'
import { createRun, filesOf, type Run } from '../store/runs.ts'
import { openCurves } from '../trackers/curves.ts'
import { type Role, roleOf } from '../trackers/roles.ts'
import type { Scalar } from '../trackers/scalar.ts'
import { ownIdentity } from './supervisor-lock.ts'
import type { RunsWorld } from './world.ts'

const pollMs = 1000
const nan = { $f: 'nan' }

export interface ImportOptions {
  readonly name: string | undefined
  /** Goes on with what is added to the log until it aborts. */
  readonly follow: AbortSignal | undefined
}

/**
 * Makes a run of another tool's log, so that it can be watched and compared like ours: curves whose names are known become loss,
 * held-out loss, learning rate and gradient norm, the others are kept under their own. Raises UserErrors CURVES_… and
 * EVENT_FILE_DAMAGED; of a damaged file, what stands before the damage is kept.
 */
export async function importCurves(path: string, options: ImportOptions, world: RunsWorld, made: (run: Run) => void): Promise<number> {
  const source = openCurves(resolve(world.cwd, path))
  const first = source.next()
  if (first.length === 0 && !options.follow) {
    throw new UserError('CURVES_EMPTY', `${path}: expected numbers with steps, got none`, { hint: '--follow waits for them' })
  }
  const run = newRun(path, options.name, first, world)
  made(run)
  const supervisor = new SupervisorJournal(filesOf(run.folder).supervisor)
  supervisor.append(1, {
    event: 'attempt',
    engine: 'local',
    handle: { kind: 'local', process: ownIdentity() },
    command: ['import', path],
    continuesFrom: null,
  })
  const told = new ToldSteps(run)
  try {
    told.take(first)
    while (options.follow && !options.follow.aborted) {
      await sleep(pollMs, undefined, { signal: options.follow }).catch(() => undefined)
      told.take(source.next())
    }
    told.flush()
    return told.steps
  } finally {
    told.close()
    supervisor.append(1, {
      event: 'ended',
      reason: 'completed',
      message: `imported from ${path}`,
      hint: '',
      step: told.last,
      exitCode: 0,
      signal: null,
      log: null,
    })
    supervisor.close()
  }
}

function newRun(path: string, name: string | undefined, scalars: readonly Scalar[], world: RunsWorld): Run {
  const { runsFolder, now, random, socketFolder } = world
  const safe =
    (name ?? basename(path))
      .replaceAll(/[^a-z0-9._-]+/gi, '-')
      .replace(/^[^a-z0-9]+/i, '')
      .slice(0, 40) || 'imported'
  const steps = Math.max(1, ...lastSteps(scalars))
  const stage: Stage = stageSchema.parse({
    ...defaultStage(safe),
    steps,
    notes: `the log ${basename(path)} of another tool: its settings are not known`,
  })
  return createRun({ runsFolder, now: now(), random, socketFolder }, stage, {
    recipe: null,
    verb: 'import',
    source: resolve(world.cwd, path),
    parent: null,
    inputs: { weights: null, vae: null, cache: null, state: null, data: null },
    contentHash: createHash('sha256')
      .update(`import ${resolve(world.cwd, path)}`)
      .digest('hex'),
  })
}

function lastSteps(scalars: readonly Scalar[]): number[] {
  const last = scalars.reduce((most, { step }) => Math.max(most, step), 0)
  return [last]
}

type Row = { wallTime: number; readonly known: Partial<Record<Role, number>>; readonly extra: Record<string, number> }

/** Scalars gathered by step and told as the journal's lines: each step once, when a later one has come or at the end. */
class ToldSteps {
  readonly #journal: JournalWriter
  readonly #open = new Map<number, Row>()
  readonly #roles = new Map<string, Role | undefined>()
  #before: { step: number; wallTime: number } | undefined
  #told = -1
  steps = 0
  last = 0

  constructor(run: Run) {
    this.#journal = new JournalWriter(filesOf(run.folder).trainer, { attempt: 1 })
    this.#journal.append({ attempt: 1, event: 'started', step: 0, steps: run.stage.steps })
  }

  take(scalars: readonly Scalar[]): void {
    let newest = 0
    for (const scalar of scalars) {
      this.#add(scalar)
      newest = Math.max(newest, scalar.step)
    }
    this.#tell((step) => step < newest)
  }

  flush(): void {
    this.#tell(() => true)
  }

  close(): void {
    this.#journal.close()
  }

  #add({ tag, step, wallTime, value }: Scalar): void {
    const row = this.#open.get(step) ?? { wallTime, known: {}, extra: {} }
    this.#open.set(step, row)
    row.wallTime = Number.isFinite(wallTime) ? Math.max(row.wallTime || 0, wallTime) : row.wallTime
    if (!this.#roles.has(tag)) this.#roles.set(tag, roleOf(tag))
    const role = this.#roles.get(tag)
    if (role === undefined || role in row.known) row.extra[tag] = value
    else row.known[role] = value
  }

  #tell(isDue: (step: number) => boolean): void {
    const due = [...this.#open].filter(([step]) => isDue(step)).sort(([a], [b]) => a - b)
    const lines = due.flatMap(([step, row]) => this.#lines(step, row))
    for (const [step] of due) this.#open.delete(step)
    if (lines.length > 0) this.#journal.appendAll(lines)
  }

  #lines(step: number, { wallTime, known, extra }: Row): object[] {
    const ts = Number.isFinite(wallTime) ? wallTime : 0
    const seconds = known.secondsPerStep ?? this.#secondsSince(step, wallTime)
    const { loss, learningRate, gradientNorm, heldOut } = known
    this.#before = { step, wallTime }
    this.steps += 1
    this.last = Math.max(this.last, step)
    const head = { ts, attempt: 1 }
    const lines: object[] = []
    // What comes late of a step that was told already is a measurement of its own, or nothing.
    const isLate = step <= this.#told
    this.#told = Math.max(this.#told, step)
    if (!isLate && (loss !== undefined || learningRate !== undefined || gradientNorm !== undefined || heldOut === undefined)) {
      lines.push({
        ...head,
        event: 'step',
        step,
        loss: tagged(loss),
        learningRate: tagged(learningRate),
        gradientNorm: gradientNorm === undefined ? null : tagged(gradientNorm),
        secondsPerStep: tagged(seconds),
        extra: Object.fromEntries(Object.entries(extra).map(([tag, value]) => [tag, tagged(value)])),
      })
    }
    if (heldOut !== undefined) lines.push({ ...head, event: 'heldOut', step, raw: { loss: tagged(heldOut) }, ema: null })
    return lines
  }

  #secondsSince(step: number, wallTime: number): number | undefined {
    const before = this.#before
    if (!before || step <= before.step) return undefined
    const seconds = (wallTime - before.wallTime) / (step - before.step)
    return seconds >= 0 ? seconds : undefined
  }
}

function tagged(value: number | undefined): unknown {
  if (value === undefined || Number.isNaN(value)) return nan
  return Number.isFinite(value) ? value : { $f: value > 0 ? 'inf' : '-inf' }
}
