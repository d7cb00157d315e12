import { withSetOptions } from '../config/overlay.ts'
import { float } from '../domain/protocol.ts'
import type { Alert } from '../domain/run/alert.ts'
import { bareSide } from '../domain/stage/origin.ts'
import { filesOf, type Run } from '../store/runs.ts'
import { ask } from './questions.ts'
import type { RunsWorld } from './world.ts'

/** What the rules say of a run's journal as it stands. */
export interface Monitored {
  /** In the order of the journal. */
  readonly alerts: readonly Alert[]
  /** Steps that were looked at, those done again included. */
  readonly steps: number
  /** Steps from one line of the journal to the next: with more than 1 the trainer has seen more than the journal. */
  readonly everySteps: number
  readonly rules: readonly {
    readonly name: string
    readonly setting: string
    readonly watches: string
    readonly reason: string
    readonly source: string
  }[]
}

/** The alert with what JSON cannot hold as numbers again. */
function withNumbers({ evidence, ...alert }: Alert): Alert {
  return { ...alert, evidence: { ...evidence, values: evidence.values.map(([step, value]) => [step, float.parse(value)] as const) } }
}

/**
 * Runs the rules of the watch over a run's journal, finished or not. `set` holds options such as `incidents.watch.lossSpike=5` on top of
 * the run's own settings. Nothing is written. Raises the UserErrors of settings.
 */
export async function monitorRun(run: Run, set: readonly string[], world: RunsWorld): Promise<Monitored> {
  const side = bareSide(run.id, run.stage)
  const { stage } = withSetOptions(side, [...set])
  const said = (await ask('monitor', { stage, journal: filesOf(run.folder).trainer }, world)) as Monitored
  return { ...said, alerts: said.alerts.map(withNumbers) }
}
