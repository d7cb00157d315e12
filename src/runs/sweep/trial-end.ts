import type { Attempt, RunEnd } from '../../domain/run/state.ts'
import type { FailureClass } from '../../domain/sweep/journal.ts'

/** What the end of a run means for its trial. */
export type Meaning =
  | { readonly kind: 'finished' }
  | { readonly kind: 'stopped' }
  | { readonly kind: 'cancelled' }
  | { readonly kind: 'failed'; readonly class: FailureClass }

/** Codes of a trainer that failed by itself: not of what somebody wrote. */
const ownFailures: ReadonlySet<string> = new Set(['TRAINER_BUG', 'LAUNCH_FAILED', 'CHECKPOINT_DAMAGED'])

/**
 * What the end of a run's attempt means: whether it may be continued is decided by its class. A trainer that its launcher ended was
 * asked to make room; one that a signal ended, or that said nothing, is the machine's doing; a code it refused with is the user's.
 */
export function meaningOf({ reason, message }: RunEnd, attempt: Attempt | undefined): Meaning {
  switch (reason) {
    case 'completed':
    case 'plateau':
    case 'data-exhausted':
      return { kind: 'finished' }
    case 'stopped':
    case 'paused':
      return { kind: 'stopped' }
    case 'non-finite':
      return { kind: 'failed', class: 'nonFinite' }
    case 'out-of-memory':
      return { kind: 'failed', class: 'memory' }
    case 'disk-full':
      return { kind: 'failed', class: 'infrastructure' }
    case 'lost':
      return { kind: 'failed', class: 'lost' }
    case 'killed':
      if (attempt?.finished?.reason === 'killed') return { kind: 'failed', class: 'preempted' }
      return message.startsWith('killed by SIG') ? { kind: 'failed', class: 'infrastructure' } : { kind: 'cancelled' }
    case 'failed':
      return { kind: 'failed', class: classOfFailure(attempt, message) }
    default:
      return { kind: 'failed', class: 'infrastructure' }
  }
}

function classOfFailure(attempt: Attempt | undefined, message: string): FailureClass {
  const code = attempt?.failure?.code ?? /\[([A-Z_]+)\]$/.exec(message)?.[1]
  return code === undefined || ownFailures.has(code) ? 'infrastructure' : 'user'
}
