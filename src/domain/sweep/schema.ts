import { z } from 'zod'

/*
 * What a sweep file says: a stage of a recipe, a space over its settings, what is compared, how much may be spent, who suggests and
 * who gives up. A point is one setting of all axes; a trial is a point trained with one seed.
 */

const positiveInt = z.int().positive()
const count = z.int().nonnegative()
const text = z.string().min(1)
/** Any JSON: the setting itself says which. */
const value = z.unknown()

/** One axis as a file writes it: one value, several, or a range. */
export const axisSchema = z
  .strictObject({
    value: value.optional().describe('the one value it has'),
    values: z.array(value).min(1).optional().describe('the values it may have'),
    min: z.number().optional().describe('lowest value of a range'),
    max: z.number().optional().describe('highest value of a range'),
    log: z.boolean().default(false).describe('a range by factors instead of by differences'),
    step: z.number().positive().optional().describe('distance of neighbouring values in a range'),
    points: z.int().min(2).optional().describe('values of a range in a grid'),
    when: z
      .record(text, z.union([value, z.array(value)]))
      .default({})
      .describe('other axes and the values at which this one exists'),
  })
  .describe('one axis: value, values, or min and max')
export type AxisInput = z.output<typeof axisSchema>

/** Names of settings, nested or with dots, down to their axes. */
export type SpaceInput = { [name: string]: AxisInput | SpaceInput }

export const samplerNames = ['grid', 'random', 'qmc', 'tpe', 'gp', 'cmaes'] as const
export const prunerNames = ['none', 'median', 'asha', 'hyperband', 'patience', 'threshold'] as const

const objective = z
  .strictObject({
    metric: z.literal('heldOut').default('heldOut').describe('the held-out loss: fixed clips, noises and times'),
    step: positiveInt.nullable().default(null).describe('step at which trials are compared; null: the last one of the stage'),
    everySteps: positiveInt
      .nullable()
      .default(null)
      .describe('steps between measurements; null: the stage’s own, or what the pruner needs'),
    weights: z
      .enum(['handed-on', 'raw', 'ema'])
      .default('handed-on')
      .describe('weights that are measured; handed-on: the average where one is kept'),
  })
  .prefault({})

const budget = z
  .strictObject({
    trials: positiveInt.nullable().default(null).describe('trials in all, those of earlier calls included; null: the whole grid'),
    steps: positiveInt.nullable().default(null).describe('optimiser steps in all, after which no trial is begun'),
    hours: z.number().positive().nullable().default(null).describe('hours of devices in all, after which no trial is begun'),
  })
  .prefault({})

const sampler = z
  .strictObject({
    name: z.enum(samplerNames).default('tpe').describe('who suggests points'),
    seed: count.default(0).describe('seed of the suggestions'),
    startup: positiveInt.default(10).describe('random points before the sampler has an opinion'),
  })
  .prefault({})

const pruner = z
  .strictObject({
    name: z.enum(prunerNames).default('none').describe('who gives points up before their end'),
    warmupSteps: count.default(0).describe('step before which nothing is given up; the first rung of asha and hyperband'),
    reduction: z.int().min(2).default(3).describe('one of so many goes on at each rung of asha and hyperband'),
    startup: count.default(4).describe('finished points before the median counts'),
    minPoints: positiveInt.default(1).describe('points at the same step before the median counts'),
    patience: positiveInt.default(3).describe('measurements without gain'),
    minDelta: z.number().nonnegative().default(0).describe('what counts as a gain'),
    upper: z.number().nullable().default(null).describe('loss above which a point is given up'),
    lower: z.number().nullable().default(null).describe('loss below which a point is given up'),
  })
  .prefault({})

const retries = z
  .strictObject({
    user: count.default(0),
    memory: count.default(0),
    nonFinite: count.default(0),
    infrastructure: count.default(2),
    preempted: count.default(20),
    lost: count.default(2),
  })
  .prefault({})
  .describe('how often a trial is continued after each kind of end')

/** A sweep file. `space` is read in a second step, since its names are those of settings. */
export const sweepSchema = z.strictObject({
  formatVersion: z.literal(1),
  name: z.string().regex(/^[a-z0-9][a-z0-9._-]{0,39}$/i),
  notes: z.string().default(''),
  recipe: text.describe('FILE.yaml, counted from this file’s folder'),
  stage: text.describe('name of the stage whose settings are swept'),
  data: text.nullable().default(null).describe('clips of stages that name none; counted from the current folder'),
  set: z.array(text).default([]).describe('path=value or STAGE:path=value for every trial'),
  space: z.record(text, z.unknown()).describe('settings and their axes'),
  derived: z.record(text, text).default({}).describe('settings computed from others: `batch.accumulate: 64 / batch.perDevice`'),
  constraints: z.array(text).default([]).describe('comparisons that must hold: `batch.perDevice * batch.accumulate == 64`'),
  seeds: z.array(count).default([]).describe('seeds each point is trained with; none: the stage’s own'),
  objective,
  budget,
  sampler,
  pruner,
  retries,
  parallel: positiveInt.default(1).describe('trials at a time'),
  deterministic: z.boolean().default(false).describe('results are told in the order of the trials: the same seed suggests the same trials'),
  warmPool: z.boolean().default(true).describe('trials of one process are forked from a parent that has imported PyTorch'),
})
export type SweepFile = z.output<typeof sweepSchema>
export type SweepInput = z.input<typeof sweepSchema>

/** An axis ready to be sampled. `when` are the axes it depends on, with the values at which it exists. */
export type Axis =
  | { readonly kind: 'choice'; readonly path: string; readonly values: readonly unknown[]; readonly when: AxisCondition }
  | {
      readonly kind: 'integer' | 'real'
      readonly path: string
      readonly min: number
      readonly max: number
      readonly step: number | null
      readonly log: boolean
      readonly points: number | null
      readonly when: AxisCondition
    }
export type AxisCondition = Readonly<Record<string, readonly unknown[]>>
