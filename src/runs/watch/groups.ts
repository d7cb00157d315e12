import { statSync } from 'node:fs'
import { type Chain, chainFiles, listChains, readChainState } from '../../store/chains.ts'

/** Which chain each run belongs to, as a page groups them. Chains whose journal has not changed are not read again. */
export class RunGroups {
  readonly #runsFolder: string
  readonly #known = new Map<string, { readonly size: number; readonly runs: readonly string[] }>()

  constructor(runsFolder: string) {
    this.#runsFolder = runsFolder
  }

  /** The name of the group of each run that has one. */
  list(): Readonly<Record<string, string>> {
    const groups: Record<string, string> = {}
    for (const chain of listChains(this.#runsFolder)) for (const run of this.#runsOf(chain)) groups[run] = `chain ${chain.id}`
    return groups
  }

  #runsOf(chain: Chain): readonly string[] {
    const size = statSync(chainFiles(chain.folder).journal, { throwIfNoEntry: false })?.size ?? 0
    const known = this.#known.get(chain.id)
    if (known?.size === size) return known.runs
    const runs = readChainState(chain).stages.map(({ run }) => run)
    this.#known.set(chain.id, { size, runs })
    return runs
  }
}
