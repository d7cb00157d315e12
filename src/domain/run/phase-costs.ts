import type { PhaseProof, RunState } from './state.ts'

/** What one phase of a run trained and what its steps cost, as measured. */
export interface PhaseCost {
  readonly index: number
  /** First and last step that were made in it. */
  readonly from: number
  readonly to: number
  /** Trainable ones. */
  readonly parameters: number | undefined
  /** Median of its steps but the first, which compiles and allocates. */
  readonly secondsPerStep: number
  /** The most that was reported; undefined where nothing was. */
  readonly memoryBytes: number | undefined
  /** What the trainer proved when the phase ended. */
  readonly proof: PhaseProof | undefined
}

/** Costs by phase, of phases that made a step; one phase for a run without others. */
export function phaseCosts({ phases, points, model, proofs }: Pick<RunState, 'phases' | 'points' | 'model' | 'proofs'>): PhaseCost[] {
  const begun = [{ index: 0, step: 0, parameters: model?.trainable }, ...phases]
  return begun.flatMap(({ index, step, parameters }, place) => {
    const until = begun[place + 1]?.step ?? Number.POSITIVE_INFINITY
    const own = points.filter((point) => point.step > step && point.step <= until)
    const [first, last] = [own[0], own.at(-1)]
    if (!first || !last) return []
    const memory = own.flatMap(({ memoryBytes }) => memoryBytes ?? [])
    return {
      index,
      from: first.step,
      to: last.step,
      parameters,
      secondsPerStep: median((own.length > 1 ? own.slice(1) : own).map(({ secondsPerStep }) => secondsPerStep)),
      memoryBytes: memory.length > 0 ? memory.reduce((most, one) => Math.max(most, one), 0) : undefined,
      proof: proofs.find((proof) => proof.index === index),
    }
  })
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.floor((sorted.length - 1) / 2)] ?? Number.NaN
}
