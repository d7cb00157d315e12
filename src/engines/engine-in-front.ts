import type { Engine, Job, JobArrays, JobHandle, JobPlace, JobStatus } from './engine.ts'

/** An engine that leaves everything to another one; those that do one thing their own way extend it. */
export abstract class EngineInFront implements Engine {
  readonly name: string
  readonly arrays: JobArrays | undefined
  readonly #engine: Engine

  constructor(engine: Engine) {
    this.#engine = engine
    this.name = engine.name
    this.arrays = engine.arrays
  }

  submit(job: Job): Promise<JobHandle> {
    return this.#engine.submit(job)
  }

  command(job: Job): readonly string[] {
    return this.#engine.command(job)
  }

  render(job: Job): string {
    return this.#engine.render(job)
  }

  forecast(job: Job): Promise<string> {
    return this.#engine.forecast(job)
  }

  observe(handle: JobHandle | undefined, place: JobPlace): Promise<JobStatus> {
    return this.#engine.observe(handle, place)
  }

  hasten(place: JobPlace): Promise<void> {
    return this.#engine.hasten(place)
  }

  signal(handle: JobHandle | undefined, place: JobPlace, signal: 'TERM' | 'KILL'): Promise<void> {
    return this.#engine.signal(handle, place, signal)
  }

  ranks(...of: Parameters<Engine['ranks']>): ReturnType<Engine['ranks']> {
    return this.#engine.ranks(...of)
  }

  reconcile(...ranks: Parameters<Engine['reconcile']>): void {
    this.#engine.reconcile(...ranks)
  }

  logs(...of: Parameters<Engine['logs']>): string[] {
    return this.#engine.logs(...of)
  }
}
