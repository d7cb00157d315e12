import { statSync } from 'node:fs'
import { type Chain, chainFiles, listChains, readChainState } from '../../store/chains.ts'
import { listSweeps, readSweepState, type Sweep, sweepFiles } from '../../store/sweeps.ts'

/** Which chain or sweep each run belongs to, as a page groups them. Those whose journal has not changed are not read again. */
export class RunGroups {
  readonly #runsFolder: string
  readonly #known = new Map<string, { readonly size: number; readonly runs: readonly string[] }>()

  constructor(runsFolder: string) {
    this.#runsFolder = runsFolder
  }

  /** The name of the group of each run that has one. */
  list(): Readonly<Record<string, string>> {
    const groups: Record<string, string> = {}
    for (const sweep of listSweeps(this.#runsFolder)) for (const run of this.#runsOfSweep(sweep)) groups[run] = `sweep ${sweep.id}`
    for (const chain of listChains(this.#runsFolder)) for (const run of this.#runsOf(chain)) groups[run] = `chain ${chain.id}`
    return groups
  }

  #runsOfSweep(sweep: Sweep): readonly string[] {
    const size = sizeOf(sweepFiles(sweep.folder).journal)
    const known = this.#known.get(sweep.id)
    if (known?.size === size) return known.runs
    const runs = readSweepState(sweep).trials.flatMap(({ run, prefix }) => [...prefix.map((stage) => stage.run), ...(run ? [run] : [])])
    this.#known.set(sweep.id, { size, runs })
    return runs
  }

  #runsOf(chain: Chain): readonly string[] {
    const size = sizeOf(chainFiles(chain.folder).journal)
    const known = this.#known.get(chain.id)
    if (known?.size === size) return known.runs
    const runs = readChainState(chain).stages.map(({ run }) => run)
    this.#known.set(chain.id, { size, runs })
    return runs
  }
}

function sizeOf(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.size ?? 0
}
