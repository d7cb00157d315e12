import { endOf, type Incident, type RunState, type StepPoint } from './state.ts'

/** Steps before and after an incident whose losses are compared. */
const compared = 20

/** What became of a run after an incident. */
export interface Followed {
  /** Mean loss of the last steps before what was redone or left out, and of the first after it; undefined where there are none. */
  readonly lossBefore: number | undefined
  readonly lossAfter: number | undefined
  /** Steps trained since, up to the next incident or the newest step. */
  readonly steps: number
  /** The next incident that was acted on or is of the same kind. */
  readonly next: { readonly number: number; readonly step: number; readonly kind: string } | undefined
  /** How the run ended, where it ended in the incident's attempt or later. */
  readonly end: { readonly reason: string; readonly message: string } | undefined
}

/** One incident of a run with its number, counted from 1, and what followed. */
export interface IncidentPage {
  readonly number: number
  readonly of: number
  readonly incident: Incident
  readonly followed: Followed
}

/** The page of an incident; undefined where a run has none of that number. */
export function incidentPage(state: RunState, number: number): IncidentPage | undefined {
  const incident = state.incidents[number - 1]
  return incident && { number, of: state.incidents.length, incident, followed: whatFollowed(state, incident, number) }
}

function whatFollowed(state: RunState, incident: Incident, number: number): Followed {
  const boundary = incident.rolledBackTo ?? incident.step - 1
  const later = state.incidents.findIndex((other, place) => place >= number && (other.kind === incident.kind || other.action !== 'noted'))
  const next = state.incidents[later]
  const before = state.points.filter(({ step }) => step <= boundary).slice(-compared)
  const after = state.points.filter(({ step, ts }) => step > boundary && ts >= incident.ts)
  const upToNext = next ? after.filter(({ ts }) => ts <= next.ts) : after
  const end = endOf(state)
  return {
    lossBefore: meanLoss(before),
    lossAfter: meanLoss(after.slice(0, compared)),
    steps: upToNext.length,
    next: next && { number: later + 1, step: next.step, kind: next.kind },
    end: end && { reason: end.reason, message: end.message },
  }
}

function meanLoss(points: readonly StepPoint[]): number | undefined {
  return points.length === 0 ? undefined : points.reduce((sum, { loss }) => sum + loss, 0) / points.length
}
