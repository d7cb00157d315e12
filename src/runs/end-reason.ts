import type { EndReason } from '../domain/protocol.ts'
import type { Attempt, RunEnd } from '../domain/run/state.ts'
import type { EndedJob } from '../engines/engine.ts'
import type { KillRequest } from '../store/runs.ts'

const reasonOfCode: Readonly<Record<string, EndReason>> = { OUT_OF_MEMORY: 'out-of-memory', DISK_FULL: 'disk-full' }
const signalNames: Readonly<Record<string, string>> = { 6: 'SIGABRT', 7: 'SIGBUS', 9: 'SIGKILL', 11: 'SIGSEGV', 15: 'SIGTERM' }

/** All that is known of an attempt whose process is gone. */
export interface Remains {
  /** What its trainer said; undefined where it said nothing at all. */
  readonly attempt: Attempt | undefined
  /** What a rank other than the first failed with. */
  readonly rankFailure: { readonly code: string; readonly message: string } | undefined
  /** Who asked for it to be killed. */
  readonly killed: KillRequest | undefined
  readonly status: EndedJob
  readonly lastStep: number
  readonly log: string
  /** The end of that log, where the launcher names the rank that ended first. */
  readonly logLines: readonly string[]
}

/**
 * The one reason an attempt ended for: what the trainer said of itself; else what a rank failed with; else what became of its
 * process. The launcher's own status is always 1, so it only counts where nobody spoke.
 */
export function endReason(remains: Remains): RunEnd {
  const { attempt, rankFailure, killed, status, lastStep, log, logLines } = remains
  const rest = { step: lastStep, exitCode: status.exitCode, signal: status.signal, log }
  const failure = attempt?.failure ?? (rankFailure && { ...rankFailure, hint: undefined })
  const finished = attempt?.finished
  // Its last start was asked to pause like those before it.
  if (status.futileStarts !== undefined) {
    const message = `Slurm took the machines back ${status.futileStarts} times in a row before there was a newer checkpoint, after step ${lastStep}`
    return { ...rest, reason: 'failed', message, hint: futileHint }
  }
  // A rank that fails makes the launcher end the others, which then speak of that.
  if (finished && !(finished.reason === 'killed' && failure)) {
    return { ...rest, reason: finished.reason, message: finished.message, step: finished.step, hint: hints[finished.reason] }
  }
  if (failure) {
    const reason = reasonOfCode[failure.code] ?? 'failed'
    // Under what a person can mend the launcher writes a traceback that says nothing more.
    const kept = failure.code === 'TRAINER_BUG' ? log : null
    return { ...rest, log: kept, reason, message: `${failure.message} [${failure.code}]`, hint: failure.hint ?? hints[reason] }
  }
  if (killed?.inQueue) {
    return { ...rest, reason: 'stopped', message: `taken out of the queue by ${killed.by} after step ${lastStep}`, hint: hints.stopped }
  }
  if (killed) {
    return { ...rest, reason: 'killed', message: `killed by ${killed.by} after step ${lastStep}`, hint: '`stagewright continue` goes on' }
  }
  if (status.told) {
    const { reason, message } = status.told
    return { ...rest, reason, message: `${message}, after step ${lastStep}`, hint: hints[reason] }
  }
  if (status.exitCode === null && status.signal === null) {
    return { ...rest, reason: 'lost', message: `the trainer and its launcher vanished after step ${lastStep}`, hint: hints.lost }
  }
  if (logLines.some((line) => /oom[-_ ]kill/i.test(line))) {
    const message = `the machine ran out of memory after step ${lastStep}: a rank was killed`
    return { ...rest, reason: 'out-of-memory', message, hint: hints['out-of-memory'] }
  }
  const signal = status.signal ?? rankSignal(logLines)
  if (signal === undefined) {
    const message = `a rank ended without a word after step ${lastStep} (exit code ${status.exitCode})`
    return { ...rest, reason: 'failed', message, hint: hints.failed }
  }
  const message = `killed by ${signal} after step ${lastStep}`
  return { ...rest, reason: 'killed', signal, message, hint: signal === 'SIGKILL' ? hints.killed : hints.failed }
}

const futileHint = 'give it more time (--slurm time=…) or checkpoint more often (checkpoint.everySteps), then `stagewright continue`'

/** The signal a rank ended by, as the launcher reports it: `exitcode  : -9 (pid: 1234)`. */
function rankSignal(logLines: readonly string[]): string | undefined {
  const numbers = logLines.flatMap((line) => /exitcode\s*:\s*-(\d+)/.exec(line)?.[1] ?? [])
  // Ranks that the launcher ended itself come with TERM; the first other one is the cause.
  const number = numbers.find((entry) => entry !== '15') ?? numbers[0]
  return number === undefined ? undefined : (signalNames[number] ?? `signal ${number}`)
}

const hints: Readonly<Record<EndReason, string>> = {
  completed: '`stagewright advance` starts the next stage from it',
  stopped: '`stagewright continue` goes on from its checkpoint',
  paused: '`stagewright continue` goes on from its checkpoint',
  'data-exhausted': 'add clips or raise `epochs`',
  plateau: '`stagewright advance` starts the next stage, or lower the learning rate and `branch`',
  'non-finite': '`stagewright branch --set learningRate=…` goes on from the last good checkpoint with a smaller step',
  incident: '`stagewright show RUN --incident N` says what was seen; `continue` goes on, `branch --set` with other settings',
  'out-of-memory': 'lower batch.perDevice, or set memory.checkpointing to all; `stagewright plan` estimates what fits',
  'disk-full': 'free some space, then `stagewright continue`',
  failed: 'mend the cause, then `stagewright continue`',
  killed: 'if nobody killed it, look for the out-of-memory killer (`dmesg`); `stagewright continue` goes on from the last checkpoint',
  lost: '`stagewright continue` goes on from the last checkpoint',
}
