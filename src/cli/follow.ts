import { UserError } from '../domain/errors.ts'
import { type RunEnd, runEnd } from '../domain/run/state.ts'
import { attach } from '../runs/attach.ts'
import { stopRun } from '../runs/control.ts'
import { settledState } from '../runs/supervise.ts'
import type { RunsWorld } from '../runs/world.ts'
import { type Run, readState } from '../store/runs.ts'
import { autoencoderLines } from './autoencoder-text.ts'
import { Progress } from './run-progress.ts'
import type { TrainingWorld } from './run-world.ts'
import { paintFor } from './terminal.ts'

/** What Ctrl-C means: it stops the run and the second time kills it, also while it starts; it only leaves; or another decides, by a signal. */
export type CtrlC = 'stops' | 'leaves' | AbortSignal

/** Starts a run where it is told how, follows it to its end and says how it ended. */
export async function follow(
  run: Run,
  options: { ctrlC: CtrlC; start?: () => Promise<void>; title?: string; fromAttempt?: number },
  world: TrainingWorld,
  runs: RunsWorld,
): Promise<RunEnd | undefined> {
  const leaving = new AbortController()
  const progress = new Progress(world.stdout, paintFor(world.stdout, world.env), options.title ?? run.stage.name)
  const started = { when: Promise.resolve() }
  const release =
    typeof options.ctrlC === 'string'
      ? world.onInterrupt((times) => {
          if (options.ctrlC === 'leaves') return leaving.abort()
          sayStopping(times, world)
          started.when
            .then(() => stopRun(run, times === 1 ? { reason: 'Ctrl-C' } : { kill: true }, runs))
            .catch((cause: unknown) => {
              // It ended by itself or by the second Ctrl-C; how, is said below.
              if (cause instanceof UserError && cause.code === 'RUN_NOT_ACTIVE') return
              world.stderr.write(`${cause instanceof Error ? cause.message : String(cause)}\n`)
            })
        })
      : () => undefined
  const signal = typeof options.ctrlC === 'string' ? leaving.signal : options.ctrlC
  let end: RunEnd | undefined
  try {
    if (options.start) started.when = options.start()
    await started.when
    const fromAttempt = options.fromAttempt ?? 1
    for await (const item of attach(run, runs, { signal, fromAttempt })) {
      if (item.attempt >= fromAttempt) progress.add(item)
      if (item.event.event === 'ended') end = runEnd(item.event)
    }
  } finally {
    release()
    progress.end()
  }
  if (signal.aborted && signal !== leaving.signal) return undefined
  if (signal.aborted) {
    world.stdout.write(`left ${run.id}; it goes on. Come back with: stagewright attach ${run.id}\n`)
    return undefined
  }
  const settled = end ?? (await settledState(run, runs)).attempts.at(-1)?.end
  if (settled) sayEnd(run, settled, world, runs)
  return settled
}

/** Says what a Ctrl-C does. */
export function sayStopping(times: number, world: TrainingWorld): void {
  world.stderr.write(times === 1 ? '\nstopping at the next step, with a checkpoint; Ctrl-C again kills\n' : '\nkilling\n')
}

/** Names a run and starts it. Inside `follow`, so that a Ctrl-C by whoever has read the name is heard. */
export async function announced(run: Run, start: () => Promise<void>, world: TrainingWorld): Promise<void> {
  world.stdout.write(`run ${run.id}\n`)
  await start()
}

/** Says how a run ended; for a bad end with the last lines of its log and what to try. */
export function sayEnd(run: Run, end: RunEnd, world: TrainingWorld, runs: RunsWorld): void {
  const paint = paintFor(world.stdout, world.env)
  const isGood = ['completed', 'stopped', 'paused', 'plateau', 'data-exhausted'].includes(end.reason)
  const word = isGood ? paint.green(end.reason) : paint.red(end.reason)
  world.stdout.write(`${run.id}: ${word} – ${end.message}\n`)
  if (isGood) {
    const left = end.reason === 'paused' ? [] : autoencoderLines(run.stage, readState(run))
    world.stdout.write(left.map((line) => `  ${line}\n`).join(''))
    return
  }
  const lines = end.log === null ? [] : runs.engine.logs(end.log, 8)
  if (lines.length > 0) world.stdout.write(`${paint.dim(`last lines of ${end.log}:`)}\n${lines.map((line) => `  ${line}\n`).join('')}`)
  world.stdout.write(`hint: ${end.hint}\n`)
}

/** Exit code of a run's end: 0 where it did what was asked, 1 else. */
export function exitCodeOf(end: RunEnd | undefined): 0 | 1 {
  return end === undefined || ['completed', 'stopped', 'paused', 'plateau', 'data-exhausted'].includes(end.reason) ? 0 : 1
}
