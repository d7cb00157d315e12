import { z } from 'zod'
import { engineChoice } from '../engine-choice.ts'
import { float, formatVersion, processIdentity } from '../protocol.ts'
import { stageSchema } from '../stage/schema.ts'
import { sweepSchema } from './schema.ts'

/*
 * A sweep: a folder with who it is, written once, and a journal with one writer, its driver. How it stands is a fold over the journal;
 * what its trials do stands in their runs.
 */

/** Kinds of ends a trial is continued after, or not. */
export const failureClasses = ['user', 'memory', 'nonFinite', 'infrastructure', 'preempted', 'lost'] as const
export type FailureClass = (typeof failureClasses)[number]

/** How a trial ended. A lost one was not heard of any more; a preempted one was asked to make room once too often. */
export const trialEnds = ['done', 'pruned', 'failed', 'preempted', 'lost', 'cancelled'] as const
export type TrialEnd = (typeof trialEnds)[number]

const axisHead = { path: z.string(), when: z.record(z.string(), z.array(z.unknown())) }
const axis = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('choice'), ...axisHead, values: z.array(z.unknown()) }),
  z.strictObject({
    kind: z.enum(['integer', 'real']),
    ...axisHead,
    min: z.number(),
    max: z.number(),
    step: z.number().nullable(),
    log: z.boolean(),
    points: z.number().nullable(),
  }),
])
const count = z.int().nonnegative()

/** `sweep.json`: the file as it was read, its axes, and the stages it trains, complete. Relative paths in them start at `cwd`. */
export const sweepIdentity = z.strictObject({
  formatVersion: z.literal(formatVersion),
  id: z.string(),
  createdAt: z.string(),
  file: z.string(),
  cwd: z.string(),
  sweep: sweepSchema,
  axes: z.array(axis),
  /** Stages up to the swept one that it needs, in the order of the recipe; the swept one is the last. */
  stages: z.array(stageSchema).min(1),
  /** Hash over all that decides what a trial is; the budget is not part of it. */
  contentHash: z.string(),
  /** The engine its runs are given to; null is this machine. */
  engine: engineChoice.nullable().default(null),
  /** The sweep whose finished points this one begins with. */
  forkedFrom: z.string().nullable(),
})
export type SweepIdentity = z.output<typeof sweepIdentity>

const lineHead = { seq: count, ts: z.number() }
const values = z.record(z.string(), z.unknown())
const trial = count

/** Everything a driver writes to `sweep.jsonl`. */
export const sweepEvent = z.discriminatedUnion('event', [
  z.looseObject({ ...lineHead, event: z.literal('opened'), formatVersion: z.literal(formatVersion) }),
  z.looseObject({ ...lineHead, event: z.literal('driven'), by: processIdentity }),
  /** A point was suggested. One that no stage can be made of has a reason and no trials. */
  z.looseObject({
    ...lineHead,
    event: z.literal('point'),
    point: count,
    asked: count,
    values,
    infeasible: z.string().nullable(),
    twinOf: count.nullable(),
  }),
  z.looseObject({
    ...lineHead,
    event: z.literal('queued'),
    trial,
    point: count,
    seed: count.nullable(),
    /** The trial and step it is to go on from, where a script branches; a step of null is the newest checkpoint. */
    branchOf: z.strictObject({ trial: count, step: count.nullable() }).nullable(),
  }),
  /** A stage before the swept one is trained by this sweep; those found finished are not told. */
  z.looseObject({ ...lineHead, event: z.literal('prefix'), stage: z.string(), run: z.string(), attemptsBefore: count }),
  /** A trial has its run, which may have trained the very same thing before. */
  z.looseObject({
    ...lineHead,
    event: z.literal('starting'),
    trial,
    run: z.string(),
    reused: z.boolean(),
    /** Runs of the stages before the swept one, and whether this trial had to train them. */
    prefix: z.array(z.strictObject({ stage: z.string(), run: z.string(), reused: z.boolean() })),
    /** `counts`: its steps are counted on from there, since it is the same trial made longer. */
    branchedFrom: z.strictObject({ trial: count, step: count, counts: z.boolean() }).nullable(),
    /** Attempts of the run that came before this trial and are not its cost. */
    attemptsBefore: count,
  }),
  z.looseObject({ ...lineHead, event: z.literal('running'), trial, attempt: count }),
  z.looseObject({
    ...lineHead,
    event: z.literal('report'),
    trial,
    step: count,
    value: float,
    standardError: float.nullable(),
    prune: z.boolean(),
    reason: z.string().nullable(),
    compared: z.array(z.strictObject({ point: count, value: float })),
  }),
  z.looseObject({ ...lineHead, event: z.literal('retried'), trial, class: z.enum(failureClasses), message: z.string() }),
  z.looseObject({
    ...lineHead,
    event: z.literal('trialEnded'),
    trial,
    state: z.enum(trialEnds),
    class: z.enum(failureClasses).nullable(),
    message: z.string(),
    step: count.nullable(),
    value: float.nullable(),
    standardError: float.nullable(),
    /** Seconds of all devices that this trial cost, its own part of the prefix included. */
    deviceSeconds: float,
    /** Seconds of all devices its run took, whoever paid for them. */
    runSeconds: float,
    steps: count,
  }),
  z.looseObject({
    ...lineHead,
    event: z.literal('told'),
    point: count,
    state: z.enum(['done', 'pruned', 'failed']),
    value: float.nullable(),
  }),
  z.looseObject({
    ...lineHead,
    event: z.literal('ended'),
    reason: z.enum(['completed', 'budget', 'stopped', 'failed']),
    message: z.string(),
  }),
])
export type SweepEvent = z.output<typeof sweepEvent>
