import { UserError } from '../domain/errors.ts'
import { incidentPage } from '../domain/run/incident.ts'
import type { RunState } from '../domain/run/state.ts'
import type { Run } from '../store/runs.ts'
import { incidentLines } from './incident-text.ts'
import { paintFor, type World, widthOf, writeJson, writeLines } from './terminal.ts'

/** Prints the page of one incident. Raises UserError INCIDENT_UNKNOWN. */
export function showIncident(run: Run, state: RunState, number: number, json: boolean, world: World): void {
  const page = incidentPage(state, number)
  if (!page) {
    const count = state.incidents.length
    throw new UserError('INCIDENT_UNKNOWN', `${run.id}: expected an incident from 1 to ${count}, got ${number}`, {
      hint: count === 0 ? 'the run has none' : `stagewright show ${run.id} lists the last`,
    })
  }
  if (json) writeJson(world.stdout, { formatVersion: 1, run: run.id, ...page })
  else writeLines(world.stdout, incidentLines(page, paintFor(world.stdout, world.env), widthOf(world.stdout)))
}
