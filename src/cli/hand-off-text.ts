import { diffStages } from '../domain/diff/stage-diff.ts'
import { bareSide, type StageSide } from '../domain/stage/origin.ts'
import { valueText } from '../domain/stage/value-text.ts'
import type { HandOff } from '../runs/hand-off.ts'
import type { Prepared } from '../runs/launch.ts'
import { planStage, type StagePlan } from '../runs/plan.ts'
import type { RunsWorld } from '../runs/world.ts'
import { type Run, readState } from '../store/runs.ts'
import { planLines } from '../weights/text.ts'
import { brief, sparkline } from './progress.ts'
import type { TrainingWorld } from './run-world.ts'
import { paintFor, type World } from './terminal.ts'

const curveWidth = 24
const namedChanges = 8

/** Says what a hand-off keeps, makes anew and begins again. */
export function printHandOff({ verb, from, carried, rebuilt, reset }: HandOff, world: World): void {
  const { bold } = paintFor(world.stdout, world.env)
  world.stdout.write(`${bold(verb)} from ${from}\n`)
  printRows(
    [
      ['carried', carried.join(', ')],
      ['rebuilt', rebuilt.join(', ')],
      ['reset', reset.join(', ')],
    ],
    world,
  )
}

function printRows(rows: readonly (readonly [string, string])[], world: World): void {
  const { dim } = paintFor(world.stdout, world.env)
  world.stdout.write(rows.flatMap(([name, text]) => (text === '' ? [] : [`  ${dim(name.padEnd(13))} ${text}\n`])).join(''))
}

/**
 * Says everything about a run that starts from another before it starts: the hand-off, what is changed, how the weights fit, and its
 * learning rates after those of the parent. Returns whether the weights fit.
 */
export async function printStart({ run, handOff }: Prepared, parent: Run, world: TrainingWorld, runs: RunsWorld): Promise<boolean> {
  printHandOff(handOff, world)
  const plan = await planStage(sideOf(run), runs)
  printRows(
    [
      ['changed', changesText(parent, run)],
      ['learning rate', spliced(parent, plan)],
    ],
    world,
  )
  if (!plan.load) return true
  world.stdout.write(
    planLines(plan.load)
      .map((line) => `  ${line}\n`)
      .join(''),
  )
  return plan.load.refused.length === 0
}

function sideOf({ id, stage }: Run): StageSide {
  return bareSide(id, stage)
}

function changesText(parent: Run, run: Run): string {
  const { changes } = diffStages(sideOf(parent), sideOf(run))
  const [before, after] = [parent.identity.inputs, run.identity.inputs]
  // The same folder may be written in two ways.
  const same = [
    ...(before.data === after.data ? ['data.source'] : []),
    ...(before.cache === after.cache ? ['data.cacheFolder'] : []),
    ...['init.weights', 'vae.weights', 'init.use', 'output', 'notes'],
  ]
  const settings = changes.filter(({ path }) => !same.includes(path))
  const shown = settings.slice(0, namedChanges).map(({ path, before, after }) => `${path} ${valueText(before)} → ${valueText(after)}`)
  const more = settings.length > namedChanges ? [`${settings.length - namedChanges} more`] : []
  return settings.length === 0 ? 'no setting' : [...shown, ...more].join(', ')
}

/** At most some of the values, evenly spread, the first and the last among them. */
function sampled(values: readonly number[], count: number): number[] {
  if (values.length <= count) return [...values]
  return Array.from({ length: count }, (_, at) => values[Math.round((at * (values.length - 1)) / (count - 1))] ?? Number.NaN)
}

/** The learning rates the parent trained with, then those to come, on one scale. */
function spliced(parent: Run, { answers }: StagePlan): string {
  const past = sampled(
    readState(parent).points.map(({ learningRate }) => learningRate),
    curveWidth,
  )
  const coming = sampled(
    answers.learningRate.map(({ learningRate }) => learningRate),
    curveWidth,
  )
  const curve = sparkline([...past, ...coming], past.length + coming.length)
  const highest = (rates: readonly number[]) => brief(Math.max(...rates))
  return past.length === 0
    ? `${curve} ${highest(coming)}`
    : `${curve.slice(0, past.length)}│${curve.slice(past.length)} ${highest(past)} → ${highest(coming)}`
}
