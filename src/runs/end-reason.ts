import type { EndReason } from '../domain/protocol.ts'
import type { Attempt, RunEnd } from '../domain/run/state.ts'
import type { JobStatus } from '../engines/engine.ts'

const reasonOfCode: Readonly<Record<string, EndReason>> = { OUT_OF_MEMORY: 'out-of-memory', DISK_FULL: 'disk-full' }

/**
 * The one reason an attempt ended for: what the trainer said of itself; else what it failed with; else what became of its
 * process. torchrun's own status is always 1, so it only counts where nobody spoke.
 */
export function endReason(attempt: Attempt | undefined, status: JobStatus & { state: 'ended' }, lastStep: number, log: string): RunEnd {
  const rest = { exitCode: status.exitCode, signal: status.signal, log }
  if (attempt?.finished) {
    const { reason, message, step } = attempt.finished
    return { reason, message, step, hint: hints[reason], ...rest }
  }
  if (attempt?.failure) {
    const { code, message, hint } = attempt.failure
    const reason = reasonOfCode[code] ?? 'failed'
    return { reason, message: `${message} [${code}]`, step: lastStep, hint: hint ?? hints[reason], ...rest }
  }
  if (status.exitCode === null && status.signal === null) {
    return {
      reason: 'lost',
      message: `the trainer and its launcher vanished after step ${lastStep}`,
      step: lastStep,
      hint: hints.lost,
      ...rest,
    }
  }
  if (status.signal === 'SIGKILL' || attempt === undefined) {
    const message = `killed by ${status.signal ?? 'a signal'} after step ${lastStep}`
    return { reason: 'killed', message, step: lastStep, hint: hints.killed, ...rest }
  }
  const message = `a rank ended without a word after step ${lastStep} (launcher: exit code ${status.exitCode})`
  return { reason: 'killed', message, step: lastStep, hint: hints.killed, ...rest }
}

const hints: Readonly<Record<EndReason, string>> = {
  completed: '`stagewright advance` starts the next stage from it',
  stopped: '`stagewright continue` goes on from its checkpoint',
  paused: '`stagewright continue` goes on from its checkpoint',
  'data-exhausted': 'add clips or raise `epochs`',
  plateau: '`stagewright advance` starts the next stage, or lower the learning rate and `branch`',
  'non-finite': '`stagewright branch --set learningRate=…` goes on from the last good checkpoint with a smaller step',
  'out-of-memory': 'lower batch.perDevice, or set memory.checkpointing to all; `stagewright plan` estimates what fits',
  'disk-full': 'free some space, then `stagewright continue`',
  failed: 'mend the cause, then `stagewright continue`',
  killed: 'if nobody killed it, look for the out-of-memory killer (`dmesg`); `stagewright continue` goes on from the last checkpoint',
  lost: '`stagewright continue` goes on from the last checkpoint',
}
