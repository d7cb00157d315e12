import { z } from 'zod'
import { engineChoice } from './engine-choice.ts'
import { endReasons, formatVersion, processIdentity } from './protocol.ts'
import { stageSchema } from './stage/schema.ts'

/*
 * A chain: the stages of a recipe trained one after another by a process of its own. Its folder holds who it is, written once, and a
 * journal with one writer, its driver; how it stands is a fold over that journal and the runs it names.
 */

/** `chain.json`: the stages as they were resolved when the chain began. Relative paths in them start at `cwd`. */
export const chainIdentity = z.strictObject({
  formatVersion: z.literal(formatVersion),
  id: z.string(),
  createdAt: z.string(),
  recipe: z.string(),
  cwd: z.string(),
  stages: z.array(stageSchema).min(1),
  /** Last stage to train; null trains all. */
  until: z.string().nullable(),
  /** Where its runs train; null is this machine. */
  engine: engineChoice.nullable().default(null),
  /** Hash over stages and `until`: a recipe that is trained again goes on with the chain of the same one. */
  contentHash: z.string(),
})
export type ChainIdentity = z.output<typeof chainIdentity>

const lineHead = { seq: z.int().nonnegative(), ts: z.number() }

/** How a chain came to the run of a stage: made it, found it finished, training, or broken off with a checkpoint to go on from. */
export const foundRuns = ['new', 'finished', 'training', 'unfinished'] as const
export type FoundRun = (typeof foundRuns)[number]

/** Everything a driver writes to `chain.jsonl`. */
export const chainEvent = z.discriminatedUnion('event', [
  z.looseObject({ ...lineHead, event: z.literal('opened'), formatVersion: z.literal(formatVersion) }),
  z.looseObject({ ...lineHead, event: z.literal('driven'), by: processIdentity }),
  /** A stage has a run that is finished or has been started: its attempt of this number is the one to watch. */
  z.looseObject({
    ...lineHead,
    event: z.literal('stage'),
    stage: z.string(),
    run: z.string(),
    found: z.enum(foundRuns),
    attempt: z.int().nonnegative(),
  }),
  z.looseObject({ ...lineHead, event: z.literal('stageEnded'), stage: z.string(), run: z.string(), reason: z.enum(endReasons) }),
  z.looseObject({ ...lineHead, event: z.literal('ended'), reason: z.enum(endReasons), message: z.string(), hint: z.string() }),
])
export type ChainEvent = z.output<typeof chainEvent>

export interface ChainEnd {
  readonly reason: (typeof endReasons)[number]
  readonly message: string
  readonly hint: string
}

export interface ChainState {
  /** Stages reached by the newest driver, in their order. */
  readonly stages: readonly { readonly stage: string; readonly run: string; readonly found: FoundRun; readonly isOver: boolean }[]
  /** How often a driver has taken it up. */
  readonly drives: number
  readonly end: ChainEnd | undefined
}

/** How a chain stands by its journal alone. */
export function foldChain(events: readonly ChainEvent[]): ChainState {
  let state: ChainState = { stages: [], drives: 0, end: undefined }
  for (const event of events) state = folded(state, event)
  return state
}

function folded(state: ChainState, event: ChainEvent): ChainState {
  switch (event.event) {
    case 'opened':
      return state
    case 'driven':
      return { stages: [], drives: state.drives + 1, end: undefined }
    case 'stage':
      return { ...state, stages: [...state.stages, { stage: event.stage, run: event.run, found: event.found, isOver: false }] }
    case 'stageEnded':
      return { ...state, stages: state.stages.map((entry) => (entry.run === event.run ? { ...entry, isOver: true } : entry)) }
    case 'ended':
      return { ...state, end: { reason: event.reason, message: event.message, hint: event.hint } }
    default:
      return event satisfies never
  }
}
