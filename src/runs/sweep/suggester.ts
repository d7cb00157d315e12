import { InterpreterDied } from '../../bridge/interpreter.ts'
import type { SweepFile } from '../../domain/sweep/schema.ts'
import type { Values } from '../../domain/sweep/space.ts'
import { type Sweep, sweepFiles } from '../../store/sweeps.ts'
import { ask } from '../questions.ts'
import type { RunsWorld } from '../world.ts'

const tries = 3

/** Whether a point is to be given up at a step, and the losses of others there. */
export interface Decision {
  readonly prune: boolean
  readonly reason: string | null
  readonly compared: readonly { readonly point: number; readonly value: number }[]
}

/** How much each axis explains of the differences in loss; without a method where there is too little to tell. */
export interface Importance {
  readonly method: string | null
  readonly importance: Readonly<Record<string, number>>
}

/** Who suggests points and gives them up. Every question may be asked again. */
export interface Suggester {
  ask(number: number, given: Values | null): Promise<Values>
  report(asked: number, step: number, value: number, options: { decide: boolean; visible: readonly number[] | null }): Promise<Decision>
  tell(asked: number, state: 'done' | 'pruned' | 'failed', value: number | null): Promise<void>
  importance(): Promise<Importance>
}

/** Optuna over the storage in the sweep's folder. An interpreter that ends in between is replaced, and the question asked again. */
export function optunaSuggester({ folder, identity }: Sweep, maxSteps: number, world: RunsWorld): Suggester {
  const study = studyOf(identity.sweep, sweepFiles(folder).study, maxSteps)
  const question = async (name: string, more: Record<string, unknown>): Promise<unknown> => {
    for (let left = tries; ; left -= 1) {
      try {
        return await ask(name, { study, ...more }, world)
      } catch (cause) {
        if (!(cause instanceof InterpreterDied) || left <= 1) throw cause
      }
    }
  }
  return {
    ask: async (number, given) => {
      const { values } = (await question('sweepAsk', { number, space: identity.axes, given })) as { values: Values }
      return values
    },
    report: async (number, step, value, { decide, visible }) =>
      decisionOf((await question('sweepReport', { number, step, value: tagged(value), decide, visible })) as RawDecision),
    tell: async (number, state, value) => {
      await question('sweepTell', { number, state, value: value === null ? null : tagged(value) })
    },
    importance: async () => (await question('sweepImportance', {})) as Importance,
  }
}

/** What Python is told of a sweep with every question. */
export function studyOf({ sampler, pruner }: SweepFile, path: string, maxSteps: number) {
  return { path, seed: sampler.seed, sampler, pruner: { ...pruner, maxSteps } }
}

type Tagged = number | { readonly $f: string }

interface RawDecision extends Omit<Decision, 'compared'> {
  readonly compared: readonly { readonly point: number; readonly value: Tagged }[]
}

function decisionOf({ compared, ...rest }: RawDecision): Decision {
  return { ...rest, compared: compared.map(({ point, value }) => ({ point, value: untagged(value) })) }
}

/** A number as JSON can hold it. */
export function tagged(value: number): Tagged {
  return Number.isFinite(value) ? value : { $f: Number.isNaN(value) ? 'nan' : value > 0 ? 'inf' : '-inf' }
}

function untagged(value: Tagged): number {
  if (typeof value === 'number') return value
  return value.$f === 'nan' ? Number.NaN : value.$f === 'inf' ? Number.POSITIVE_INFINITY : Number.NEGATIVE_INFINITY
}
