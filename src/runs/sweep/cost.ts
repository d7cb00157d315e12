import { supervisorJournal, trainerJournal } from '../../store/journal.ts'
import { filesOf, type Run } from '../../store/runs.ts'

/** What some attempts of a run took. */
export interface Cost {
  /** Seconds from start to end times the devices of the job. */
  readonly deviceSeconds: number
  /** Optimiser steps done, those done again included. */
  readonly steps: number
}

/** What the attempts of a run after a number took. */
export function costOf(run: Run, afterAttempt = 0): Cost {
  const files = filesOf(run.folder)
  const devices = run.stage.parallel.processes * run.stage.parallel.nodes
  const spans = new Map<number, { from: number; to: number }>()
  const supervised = supervisorJournal(files.supervisor).next()
  const trained = trainerJournal(files.trainer).next()
  for (const { attempt, ts } of [...supervised.filter(({ event }) => event === 'attempt' || event === 'ended'), ...trained]) {
    if (attempt <= afterAttempt) continue
    const known = spans.get(attempt)
    spans.set(attempt, { from: Math.min(known?.from ?? ts, ts), to: Math.max(known?.to ?? ts, ts) })
  }
  const seconds = [...spans.values()].reduce((sum, { from, to }) => sum + (to - from), 0)
  const steps = [...spans.keys()].map((attempt) => stepsOf(trained.filter((event) => event.attempt === attempt)))
  return { deviceSeconds: seconds * devices, steps: steps.reduce((sum, count) => sum + count, 0) }
}

function stepsOf(events: readonly { readonly event: string; readonly step?: unknown }[]): number {
  const steps = events.filter(({ event }) => event === 'started' || event === 'step').map(({ step }) => Number(step))
  return steps.length === 0 ? 0 : Math.max(...steps) - Math.min(...steps)
}
