import type { SupervisorEvent } from '../domain/protocol.ts'
import { RunFold, type RunState, type StepPoint } from '../domain/run/state.ts'
import type { TrainerRecord } from './trainer-record.ts'

/** The state of a run folded from its record: of its steps only what the fold needs to know passes through it. */
export class RecordFold {
  readonly #record: TrainerRecord
  readonly #fold = new RunFold()
  readonly #done = { rows: 0, events: 0, rewinds: 0 }

  constructor(record: TrainerRecord) {
    this.#record = record
  }

  /** Takes what the record has grown by, then what the supervisor has said since. */
  take(told: readonly SupervisorEvent[]): void {
    const { events, columns, last } = this.#record
    for (; this.#done.events < events.length; this.#done.events += 1) {
      const placed = events[this.#done.events]
      if (!placed) break
      this.#reachRow(placed.row)
      this.#fold.add(placed.event.attempt, placed.event)
    }
    this.#reachRow(columns.rows)
    if (last.seq >= 0) this.#fold.hear(last.ts)
    for (const event of told) this.#fold.add(event.attempt, event)
  }

  /** Its state without points: those are the columns. */
  state(): RunState {
    return this.#fold.state()
  }

  /** The points that count, as `RunState` has them. */
  points(): StepPoint[] {
    const { columns } = this.#record
    const [step, ts, attempt, loss, learningRate, gradientNorm, secondsPerStep, memoryBytes] = (
      ['step', 'ts', 'attempt', 'loss', 'learningRate', 'gradientNorm', 'secondsPerStep', 'memoryBytes'] as const
    ).map((name) => columns.column(name) ?? new Float64Array())
    const at = (values: Float64Array | undefined, row: number) => values?.[row] ?? Number.NaN
    return Array.from(columns.kept, (row) => ({
      step: at(step, row),
      ts: at(ts, row),
      attempt: at(attempt, row),
      loss: at(loss, row),
      learningRate: at(learningRate, row),
      gradientNorm: Number.isNaN(at(gradientNorm, row)) ? undefined : at(gradientNorm, row),
      secondsPerStep: at(secondsPerStep, row),
      ...(Number.isNaN(at(memoryBytes, row)) ? {} : { memoryBytes: at(memoryBytes, row) }),
    }))
  }

  /** Tells the fold of the rows before a row: of the first, those where the run went back, and the last. */
  #reachRow(row: number): void {
    const { columns } = this.#record
    const [steps, times] = [columns.column('step'), columns.column('ts')]
    const tell = (at: number) => this.#fold.reach(steps?.[at] ?? 0, times?.[at] ?? 0)
    // The first row since an event may be a step that the event had reached already; between it and the last steps only rise.
    const tellUpTo = (end: number) => {
      if (end > this.#done.rows) tell(this.#done.rows)
      if (end - 1 > this.#done.rows) tell(end - 1)
    }
    for (let next = columns.rewinds[this.#done.rewinds]; next && next.row < row; next = columns.rewinds[this.#done.rewinds]) {
      // The steps before it first: they may have been measured in between.
      tellUpTo(next.row)
      tell(next.row)
      this.#done.rows = Math.max(this.#done.rows, next.row + 1)
      this.#done.rewinds += 1
    }
    tellUpTo(row)
    this.#done.rows = Math.max(row, this.#done.rows)
  }
}
