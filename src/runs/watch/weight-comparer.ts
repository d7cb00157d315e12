import { z } from 'zod'
import { UserError } from '../../domain/errors.ts'
import { findCheckpoint } from '../../store/checkpoints.ts'
import { type FoundWeights, weightsOf } from '../hand-off.ts'
import type { RunWatch } from './run-watch.ts'
import type { WatchedRuns } from './watched-runs.ts'

/** Runs this program with some words in a process of its own; gives what it printed. */
export type OwnProgram = (words: readonly string[]) => Promise<string>

/** Modules this deep and no deeper are told of: `blocks.3` is two. */
const deepest = 2

const distance = z.looseObject({ relativeL2: z.unknown(), maxAbs: z.unknown(), changed: z.number() })
const diffSchema = z.looseObject({
  same: z.number(),
  changes: z.array(z.looseObject({ kind: z.string() })),
  modules: z.array(
    z.looseObject({
      module: z.string(),
      tensors: z.number(),
      parameters: z.number(),
      changedTensors: z.number(),
      changedParameters: z.number(),
      distance,
    }),
  ),
})

/** What a run changed in the weights it began with, by module. */
export interface WeightChanges {
  readonly from: string
  readonly to: string
  readonly same: number
  readonly changed: number
  readonly modules: readonly z.output<typeof diffSchema>['modules'][number][]
}

/** Compares weights in a process of its own, one pair after the other; what was compared once is remembered. */
export class WeightComparer {
  readonly #program: OwnProgram
  readonly #known = new Map<string, Promise<WeightChanges>>()
  #last: Promise<unknown> = Promise.resolve()

  constructor(program: OwnProgram) {
    this.#program = program
  }

  /** The newest checkpoint of a run against the checkpoint it started from, or against its own first one. Raises UserError WEIGHTS_MISSING. */
  async changesOf(watch: RunWatch, runs: WatchedRuns): Promise<WeightChanges> {
    const { run } = watch
    const newest = findCheckpoint(run, undefined)
    const to = weightsOf(run, newest, newest.hasEma ? 'ema' : 'raw')
    const before = await beginningOf(watch, runs)
    const [from, toName] = [before.name, `${run.id}@${newest.step}`]
    const key = `${before.weights.path}\n${to.path}`
    const known = this.#known.get(key) ?? this.#compare(before.weights.path, to.path, from, toName)
    this.#known.set(key, known)
    known.catch(() => this.#known.delete(key))
    return known
  }

  #compare(a: string, b: string, from: string, to: string): Promise<WeightChanges> {
    const done = this.#last.then(async () => {
      const found = diffSchema.parse(JSON.parse(await this.#program(['weights', 'diff', a, b, '--json'])))
      const modules = found.modules.filter(({ module }) => module === '' || module.split('.').length <= deepest)
      return { from, to, same: found.same, changed: found.changes.length, modules }
    })
    this.#last = done.catch(() => undefined)
    return done
  }
}

async function beginningOf({ run }: RunWatch, runs: WatchedRuns): Promise<{ name: string; weights: Pick<FoundWeights, 'path'> }> {
  const { parent, inputs } = run.identity
  if (parent) {
    const { run: parentRun } = await runs.watch(parent.run)
    return { name: `${parent.run}@${parent.step}`, weights: weightsOf(parentRun, findCheckpoint(parentRun, parent.step), parent.use) }
  }
  if (inputs.weights !== null) return { name: inputs.weights, weights: { path: inputs.weights } }
  throw new UserError('WEIGHTS_MISSING', `${run.id}: expected a run that began with weights, got one that began with random ones`, {
    hint: 'there is nothing to compare with',
  })
}
