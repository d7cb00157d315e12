import { describe, expect, test } from 'vitest'
import type { TrainerEvent } from '../../src/domain/protocol.ts'
import { foldRun, newestAttempt } from '../../src/domain/run/state.ts'
import { endReason, type Remains } from '../../src/runs/end-reason.ts'

/** An attempt whose trainer said one thing. */
const attemptThat = (event: TrainerEvent) => newestAttempt(foldRun([event], []))
const head = { seq: 0, ts: 0, attempt: 1 }
const attempt = attemptThat({
  ...head,
  event: 'ready',
  protocol: 1,
  worldSize: 2,
  pids: [],
  host: 'h',
  device: 'cpu',
  torch: '',
  threads: 1,
  socket: null,
})
const remains: Remains = {
  attempt,
  rankFailure: undefined,
  killed: undefined,
  status: { state: 'ended', exitCode: 1, signal: null },
  lastStep: 12,
  log: 'a.log',
  logLines: [],
}
const end = (known: Partial<Remains>) => endReason({ ...remains, ...known })
const finished = (reason: 'completed' | 'killed') => attemptThat({ ...head, event: 'finished', reason, message: reason, step: 13 })

describe('an attempt ended because', () => {
  test('of what its trainer said, whatever the launcher’s status', () => {
    expect(end({ attempt: finished('completed') })).toMatchObject({ reason: 'completed', step: 13, exitCode: 1 })
  })

  test('it came no further however often it was started, though its trainer only paused', () => {
    const paused = attemptThat({ ...head, event: 'finished', reason: 'paused', message: 'paused', step: 12 })
    expect(end({ attempt: paused, status: { state: 'ended', exitCode: 0, signal: null, futileStarts: 3 } })).toMatchObject({
      reason: 'failed',
      message: 'Slurm took the machines back 3 times in a row before there was a newer checkpoint, after step 12',
      hint: expect.stringContaining('--slurm time'),
    })
  })

  test('of what another rank failed with, not because the launcher then ended the first', () => {
    const rankFailure = { code: 'OUT_OF_MEMORY', message: 'rank 1 asked for 3 GiB' }
    expect(end({ attempt: finished('killed'), rankFailure })).toMatchObject({
      reason: 'out-of-memory',
      message: 'rank 1 asked for 3 GiB [OUT_OF_MEMORY]',
      hint: 'lower batch.perDevice, or set memory.checkpointing to all; `stagewright plan` estimates what fits',
    })
  })

  test('of a mistake that its message explains, or of a bug that its log does', () => {
    const failed = (code: string) => attemptThat({ ...head, event: 'failed', rank: 0, code, message: 'data.source: got none' })
    expect(end({ attempt: failed('DATA_MISSING') })).toMatchObject({
      reason: 'failed',
      message: 'data.source: got none [DATA_MISSING]',
      log: null,
    })
    expect(end({ attempt: failed('TRAINER_BUG') })).toMatchObject({ reason: 'failed', log: 'a.log' })
  })

  test('a person killed it', () => {
    expect(end({ killed: { by: 'ann@host', inQueue: false }, status: { state: 'ended', exitCode: null, signal: null } })).toMatchObject({
      reason: 'killed',
      message: 'killed by ann@host after step 12',
    })
  })

  test.each([
    [[' exitcode  : -9 (pid: 12)'], 'SIGKILL', /out-of-memory killer/],
    [[' exitcode  : -15 (pid: 11)', ' exitcode  : -11 (pid: 12)'], 'SIGSEGV', /mend the cause/],
    [['  exitcode : -31 (pid: 12)'], 'signal 31', /mend the cause/],
  ])('a rank was killed, as the launcher reports: %j', (logLines, signal, hint) => {
    expect(end({ logLines })).toMatchObject({
      reason: 'killed',
      signal,
      message: `killed by ${signal} after step 12`,
      hint: expect.stringMatching(hint),
    })
  })

  test('its launcher was killed by a signal', () => {
    const status = { state: 'ended', exitCode: 137, signal: 'SIGKILL' } as const
    expect(end({ status })).toMatchObject({ reason: 'killed', signal: 'SIGKILL', exitCode: 137 })
  })

  test('a rank ended without a word and without a signal', () => {
    expect(end({ status: { state: 'ended', exitCode: 3, signal: null } })).toMatchObject({
      reason: 'failed',
      message: 'a rank ended without a word after step 12 (exit code 3)',
    })
  })

  test('everything vanished together', () => {
    expect(end({ attempt: undefined, status: { state: 'ended', exitCode: null, signal: null } })).toMatchObject({
      reason: 'lost',
      signal: null,
    })
  })
})
