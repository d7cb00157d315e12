import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, vi } from 'vitest'
import type { SweepState } from '../../../src/domain/sweep/state.ts'
import { processesWhere } from '../../../src/engines/process-identity.ts'
import { driveSweep } from '../../../src/runs/sweep/driver.ts'
import { readSweepState, type Sweep } from '../../../src/store/sweeps.ts'
import { fakeWorld, folderTest } from '../fake-world.ts'
import { madeSweep } from './sweep-world.ts'

const test = folderTest
// On a busy machine processes take their time to start.
vi.setConfig({ testTimeout: 90_000 })

async function sweepUntil(sweep: Sweep, holds: (state: SweepState) => boolean): Promise<void> {
  while (!holds(readSweepState(sweep))) await sleep(20)
}

describe('a sweep whose interpreter is killed', () => {
  test('asks the next one the same, and goes on', async ({ folder }) => {
    const world = fakeWorld(folder, { stepMs: 10 })
    const sweep = madeSweep(world, { budget: { trials: 3 }, objective: { everySteps: 10 } })
    const driving = driveSweep(sweep.folder, world)
    const isOurs = ({ pid }: { pid: number }) =>
      readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ')[1] === String(process.pid)
    for (const count of [1, 2]) {
      await sweepUntil(sweep, ({ trials }) => trials.filter(({ status }) => status === 'running' || status === 'done').length >= count)
      const interpreters = processesWhere((words) => words.some((word) => word.endsWith('bridge_boot.py'))).filter(isOurs)
      expect(interpreters).toHaveLength(1)
      for (const { pid } of interpreters) process.kill(pid, 'SIGKILL')
    }
    expect(await driving).toMatchObject({ reason: 'budget' })
    const { trials } = readSweepState(sweep)
    expect(trials.map(({ status, reports }) => [status, reports.length])).toEqual(Array.from({ length: 3 }, () => ['done', 4]))
  })
})
