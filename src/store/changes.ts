import { type FSWatcher, watch } from 'node:fs'
import { basename, dirname } from 'node:path'

/** Between two answers, so that a reader of a file that grows all the time does not read it line by line. */
const gapMs = 5

/**
 * Changes of files of one folder, there or to come, as the system tells them. Where it tells nothing – storage of another host, no
 * watches left – a wait lasts as long as it may.
 */
export class FileChanges {
  #watcher: FSWatcher | undefined
  #hasChanged = false
  #wake: (() => void) | undefined
  #toldAt = 0

  constructor(first: string, ...others: readonly string[]) {
    const names = [first, ...others].map((path) => basename(path))
    try {
      this.#watcher = watch(dirname(first), { persistent: false }, (_, name) => {
        if (name === null || names.includes(name)) this.#changed()
      })
      this.#watcher.on('error', () => this.close())
    } catch {
      this.#watcher = undefined
    }
  }

  /** Waits for a change since the last wait, `ms` at most, or until `signal` aborts. */
  async within(ms: number, signal?: AbortSignal): Promise<void> {
    await this.#woken(ms, signal)
    const early = gapMs - (performance.now() - this.#toldAt)
    if (early > 0 && this.#watcher) await new Promise((resolve) => setTimeout(resolve, early))
    this.#hasChanged = false
    this.#toldAt = performance.now()
  }

  close(): void {
    this.#watcher?.close()
    this.#watcher = undefined
  }

  #changed(): void {
    this.#hasChanged = true
    this.#wake?.()
  }

  #woken(ms: number, signal: AbortSignal | undefined): Promise<void> {
    if (this.#hasChanged || signal?.aborted) return Promise.resolve()
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(clock)
        signal?.removeEventListener('abort', done)
        this.#wake = undefined
        resolve()
      }
      const clock = setTimeout(done, ms)
      signal?.addEventListener('abort', done)
      this.#wake = done
    })
  }
}
