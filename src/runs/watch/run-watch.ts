import type { SupervisorEvent } from '../../domain/protocol.ts'
import { newestAttempt, type RunState } from '../../domain/run/state.ts'
import { type JournalReader, supervisorJournal } from '../../store/journal.ts'
import { RecordFold } from '../../store/record-fold.ts'
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
  #fold: RecordFold
  #isGone = false
  #updating: Promise<boolean> | undefined

  constructor(run: Run, world: Pick<RunsWorld, 'engine' | 'now'>) {
    this.run = run
    this.#world = world
    this.#record = new TrainerRecord(filesOf(run.folder))
    this.#fold = new RecordFold(this.#record)
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
    this.#fold.take(told)
    this.#supervisorSeq = told.at(-1)?.seq ?? this.#supervisorSeq
    await this.#look()
    return this.cursor !== before
  }

  #startOver(): void {
    this.#record = new TrainerRecord(filesOf(this.run.folder))
    this.#supervisor = supervisorJournal(filesOf(this.run.folder).supervisor)
    this.#fold = new RecordFold(this.#record)
  }

  async #look(): Promise<void> {
    const state = this.state()
    const attempt = newestAttempt(state)
    // While somebody supervises it, its end is about to be recorded.
    const isOpen = attempt !== undefined && !attempt.end && !isSupervised(this.run)
    this.#isGone = isOpen && (await isGone(this.run, attempt, state.lastHeardAt, this.#world.engine))
  }
}
