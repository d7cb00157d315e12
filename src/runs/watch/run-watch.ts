import type { SupervisorEvent } from '../../domain/protocol.ts'
import { newestAttempt, RunFold, type RunState } from '../../domain/run/state.ts'
import { type JournalReader, supervisorJournal } from '../../store/journal.ts'
import { filesOf, type Run } from '../../store/runs.ts'
import { TrainerRecord } from '../../store/trainer-record.ts'
import { isGone } from '../supervise.ts'
import { isSupervised } from '../supervisor-lock.ts'
import type { RunsWorld } from '../world.ts'
import { type RunSummary, summaryOf } from './summary.ts'

/** One run watched without owning anything of it: its measurements as columns, its state, growing with its journals. */
export class RunWatch {
  readonly run: Run
  readonly #world: Pick<RunsWorld, 'engine' | 'now'>
  #record: TrainerRecord
  #supervisor: JournalReader<SupervisorEvent>
  #supervisorSeq = -1
  #fold = new RunFold()
  #done = { rows: 0, events: 0, rewinds: 0 }
  #isGone = false
  #updating: Promise<boolean> | undefined

  constructor(run: Run, world: Pick<RunsWorld, 'engine' | 'now'>) {
    this.run = run
    this.#world = world
    this.#record = new TrainerRecord(run.folder)
    this.#supervisor = supervisorJournal(filesOf(run.folder).supervisor)
  }

  get record(): TrainerRecord {
    return this.#record
  }

  /** Numbers of the newest lines of both journals: whoever has seen them has seen everything. */
  get cursor(): string {
    return `${this.#record.last.seq}.${this.#supervisorSeq}${this.#isGone ? '.gone' : ''}`
  }

  /** Its state; the points are in the record's columns. */
  state(): RunState {
    return this.#fold.state()
  }

  summary(): RunSummary {
    return summaryOf(this.run, this.state(), this.#record, this.#isGone)
  }

  /** Takes what is new. Returns whether anything is. Calls at once share one look. */
  update(): Promise<boolean> {
    this.#updating ??= this.#update().finally(() => {
      this.#updating = undefined
    })
    return this.#updating
  }

  async #update(): Promise<boolean> {
    const before = this.cursor
    if (this.#record.isStale()) this.#startOver()
    // The supervisor first: an end written there means that the trainer has said everything.
    const told = this.#supervisor.next()
    await this.#record.update()
    this.#foldRecord()
    for (const event of told) {
      this.#supervisorSeq = event.seq
      this.#fold.add(event.attempt, event)
    }
    await this.#look()
    return this.cursor !== before
  }

  #startOver(): void {
    this.#record = new TrainerRecord(this.run.folder)
    this.#supervisor = supervisorJournal(filesOf(this.run.folder).supervisor)
    this.#fold = new RunFold()
    this.#done = { rows: 0, events: 0, rewinds: 0 }
  }

  #foldRecord(): void {
    const { events, columns, last } = this.#record
    for (; this.#done.events < events.length; this.#done.events += 1) {
      const placed = events[this.#done.events]
      if (!placed) break
      this.#reachRow(placed.row)
      this.#fold.add(placed.event.attempt, placed.event)
    }
    this.#reachRow(columns.rows)
    if (last.seq >= 0) this.#fold.hear(last.ts)
  }

  /** Tells the fold of the rows before a row: of those where the run went back, and of the last. */
  #reachRow(row: number): void {
    const { columns } = this.#record
    const [steps, times] = [columns.column('step'), columns.column('ts')]
    const tell = (at: number) => this.#fold.reach(steps?.[at] ?? 0, times?.[at] ?? 0)
    for (let next = columns.rewinds[this.#done.rewinds]; next && next.row < row; next = columns.rewinds[this.#done.rewinds]) {
      tell(next.row)
      this.#done.rewinds += 1
    }
    if (row > this.#done.rows) tell(row - 1)
    this.#done.rows = Math.max(row, this.#done.rows)
  }

  async #look(): Promise<void> {
    const state = this.state()
    const attempt = newestAttempt(state)
    // While somebody supervises it, its end is about to be recorded.
    const isOpen = attempt !== undefined && !attempt.end && !isSupervised(this.run)
    this.#isGone = isOpen && (await isGone(this.run, attempt, state.lastHeardAt, this.#world.engine))
  }
}
