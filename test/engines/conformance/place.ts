import type { EngineChoice } from '../../../src/domain/engine-choice.ts'
import { slurmSettings } from '../../../src/domain/engine-choice.ts'
import { processesWhere } from '../../../src/engines/process-identity.ts'
import type { RunsWorld } from '../../../src/runs/world.ts'
import type { Run } from '../../../src/store/runs.ts'
import { type Behaviour, fakeWorld, supervised } from '../../runs/fake-world.ts'
import { SlurmBox, whyNoSlurm } from '../slurm/box.ts'

/** Where the scenarios are played: this machine, or a cluster on it. */
export interface Site {
  readonly name: string
  /** Why it cannot be had here. */
  readonly missing: string | undefined
  readonly start: () => Promise<void>
  readonly stop: () => Promise<void>
  /** A world whose runs train here. Its supervisors live in this process, unless they shall be killed. */
  readonly world: (folder: string, behaviour?: Behaviour, options?: { detached?: boolean; settings?: object }) => RunsWorld
  /** What is left of a run: its processes, and jobs of any run. */
  readonly left: (run: Run) => string[]
}

const processesOf = (run: Run) =>
  processesWhere((words) => words.some((word) => word.startsWith(run.folder))).map(({ pid }) => `process ${pid}`)

export const thisMachine: Site = {
  name: 'this machine',
  missing: undefined,
  start: async () => {},
  stop: async () => {},
  world: (folder, behaviour, options) => supervised(fakeWorld(folder, behaviour), options),
  left: processesOf,
}

export class Cluster implements Site {
  readonly missing = whyNoSlurm()
  readonly name = `a cluster${this.missing ? ` (${this.missing})` : ''}`
  #box: SlurmBox | undefined

  get box(): SlurmBox {
    if (!this.#box) throw new Error('the cluster has not been started')
    return this.#box
  }

  readonly start = async () => {
    if (!this.missing) this.#box = await SlurmBox.start()
  }

  readonly stop = async () => {
    await this.#box?.stop()
  }

  readonly world = (folder: string, behaviour: Behaviour = {}, options: { detached?: boolean; settings?: object } = {}) => {
    const slurm = slurmSettings.parse({ memory: '20M', ...options.settings })
    const engine: EngineChoice = { formatVersion: 1, kind: 'slurm', slurm }
    const env = { ...this.box.env, STAGEWRIGHT_SLURM_POLL_SECONDS: '0.3' }
    return supervised(fakeWorld(folder, behaviour, { env, engine }), options)
  }

  readonly left = (run: Run) => {
    const jobs = this.box.run('squeue', '-h', '-o', '%i %j').split('\n')
    return [...processesOf(run), ...jobs.filter((line) => line.endsWith(run.id)).map((line) => `job ${line}`)]
  }
}
