import type { ArrayPlace, Engine, Job, JobHandle } from './engine.ts'
import { EngineInFront } from './engine-in-front.ts'

interface Waiting {
  readonly job: Job
  readonly resolve: (handle: JobHandle) => void
  readonly reject: (cause: unknown) => void
}

/** How long after one job the others of its array are waited for. */
const patienceMs = 60_000

/** An engine that holds back jobs it was told of until the last of them is there, and sends them as one. Others go at once. */
export class GatheringEngine extends EngineInFront {
  readonly #expected = new Set<string>()
  #place: ArrayPlace | undefined
  #waiting: Waiting[] = []
  #clock: NodeJS.Timeout | undefined

  /** An engine in front of one that has arrays; undefined where it has none. */
  static of(engine: Engine): GatheringEngine | undefined {
    return engine.arrays && new GatheringEngine(engine)
  }

  /** Jobs of these runs are sent as one. */
  expect(runFolders: readonly string[], place: ArrayPlace): void {
    this.#place = place
    for (const folder of runFolders) this.#expected.add(folder)
  }

  /** A run's job is waited for no longer. */
  forget(runFolder: string): void {
    if (this.#expected.delete(runFolder) && this.#expected.size === 0) void this.#send()
  }

  override async submit(job: Job): Promise<JobHandle> {
    if (!this.#expected.has(job.runFolder)) return super.submit(job)
    const handle = new Promise<JobHandle>((resolve, reject) => this.#waiting.push({ job, resolve, reject }))
    clearTimeout(this.#clock)
    this.#clock = setTimeout(() => void this.#send(), patienceMs)
    this.forget(job.runFolder)
    return handle
  }

  async #send(): Promise<void> {
    clearTimeout(this.#clock)
    this.#expected.clear()
    const waiting = this.#waiting
    this.#waiting = []
    if (!this.arrays || !this.#place || waiting.length === 0) return
    try {
      const results = await this.arrays.submit(
        waiting.map(({ job }) => job),
        this.#place,
      )
      for (const [at, { resolve, reject }] of waiting.entries()) {
        const result = results[at]
        if (result?.status === 'fulfilled') resolve(result.value)
        else reject(result?.reason)
      }
    } catch (cause) {
      for (const { reject } of waiting) reject(cause)
    }
  }
}
