import { UserError } from '../domain/errors.ts'
import type { ProcessIdentity } from '../domain/protocol.ts'
import type { Engine, Job, JobArrays, JobHandle, JobPlace, JobStatus, RankPlace } from './engine.ts'

/** Every engine as one: a job goes to the one chosen for it, and stays with it. */
export class Engines implements Engine {
  readonly name = 'engines'
  /** Of the one engine that has them. */
  readonly arrays: JobArrays | undefined
  readonly #engines: ReadonlyMap<string, Engine>
  readonly #here: Engine

  /** The first is this machine. */
  constructor(here: Engine, ...others: readonly Engine[]) {
    this.#here = here
    this.#engines = new Map([here, ...others].map((engine) => [engine.name, engine]))
    this.arrays = others.find(({ arrays }) => arrays)?.arrays
  }

  async submit(job: Job): Promise<JobHandle> {
    return this.#of(job).submit(job)
  }

  command(job: Job): readonly string[] {
    return this.#of(job).command(job)
  }

  render(job: Job): string {
    return this.#of(job).render(job)
  }

  async forecast(job: Job): Promise<string> {
    return this.#of(job).forecast(job)
  }

  async observe(handle: JobHandle | undefined, place: JobPlace): Promise<JobStatus> {
    return this.#of(place).observe(handle, place)
  }

  async hasten(place: JobPlace): Promise<void> {
    await this.#of(place).hasten(place)
  }

  async signal(handle: JobHandle | undefined, place: JobPlace, signal: 'TERM' | 'KILL'): Promise<void> {
    await this.#of(place).signal(handle, place, signal)
  }

  ranks(place: RankPlace): ProcessIdentity[] {
    return this.#of(place).ranks(place)
  }

  reconcile(ranks: readonly ProcessIdentity[]): void {
    this.#here.reconcile(ranks)
  }

  logs(log: string, lines: number): string[] {
    return this.#here.logs(log, lines)
  }

  #of({ engine }: Pick<JobPlace, 'engine'>): Engine {
    const found = this.#engines.get(engine)
    if (found) return found
    throw new UserError('ENGINE_UNKNOWN', `expected one of the engines ${[...this.#engines.keys()].join(', ')}, got ${engine}`, {
      hint: 'use the Stagewright version that started the run',
    })
  }
}
