declare module 'pythonia' {
  import type { ChildProcess } from 'node:child_process'

  /** A Python object by proxy; a trailing `$` takes options as its last argument. */
  interface Facade {
    invoke$(name: string, json: string, options: { $timeout: number }): Promise<string>
  }

  const pythonia: {
    python: (module: string) => Promise<Facade>
    com: { proc: ChildProcess | null; write: (message: object, answered?: (answer: unknown) => void) => void }
  }
  export default pythonia
}
