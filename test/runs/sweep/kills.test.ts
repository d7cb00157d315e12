import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'vitest'
import { processesWhere } from '../../../src/engines/process-identity.ts'
import { followSweep, isSweepDriven, startSweep } from '../../../src/runs/sweep/begin.ts'
import { lockHolder } from '../../../src/store/lock.ts'
import { listRuns } from '../../../src/store/runs.ts'
import { readSweepState, type Sweep, sweepFiles, sweepJournal } from '../../../src/store/sweeps.ts'
import { fakeWorld, folderTest } from '../fake-world.ts'
import { madeSweep } from './sweep-world.ts'

/*
 * Whatever of a sweep is killed, and whenever: its driver, the Python that answers for the sampler, the trainers.
 */
const kills = 24
const trials = 8

const targets: readonly ((sweep: Sweep, folder: string) => (number | undefined)[])[] = [
  (sweep) => [driverOf(sweep)],
  (sweep) => childrenOf(driverOf(sweep)),
  (_, folder) => processesWhere((words) => words.includes('train') && words.some((word) => word.startsWith(folder))).map(({ pid }) => pid),
]

const driverOf = (sweep: Sweep) => lockHolder(sweepFiles(sweep.folder).lock)?.pid

function childrenOf(driver: number | undefined): number[] {
  const isChild = (pid: number) => new RegExp(`^PPid:\\s*${driver}$`, 'm').test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  return processesWhere((words) => words.some((word) => word.endsWith('bridge_boot.py')))
    .map(({ pid }) => pid)
    .filter((pid) => {
      try {
        return isChild(pid)
      } catch {
        return false
      }
    })
}

function kill(pid: number | undefined): void {
  try {
    if (pid !== undefined) process.kill(pid, 'SIGKILL')
  } catch {
    // It has ended meanwhile.
  }
}

folderTest.runIf(process.env.STAGEWRIGHT_FULL === '1')(
  `a sweep of which something is killed ${kills} times loses nothing and counts nothing twice`,
  { timeout: 280_000 },
  async ({ folder }) => {
    const world = fakeWorld(folder, { stepMs: 20 })
    const retries = { infrastructure: 100, lost: 100, preempted: 100 }
    const sweep = madeSweep(world, { budget: { trials }, objective: { everySteps: 10 }, parallel: 2, retries })
    for (let count = 0; count < kills; count += 1) {
      if (!isSweepDriven(sweep)) await startSweep(sweep, world)
      await sleep(100 + 800 * Math.random())
      for (const pid of targets[count % targets.length]?.(sweep, folder) ?? []) kill(pid)
      await sleep(30)
    }
    if (!isSweepDriven(sweep)) await startSweep(sweep, world)
    for await (const _ of followSweep(sweep, 1, world));

    const state = readSweepState(sweep)
    expect(state.end?.reason).toBe('budget')
    expect(state.trials.map(({ status, step }) => [status, step])).toEqual(Array.from({ length: trials }, () => ['done', 40]))
    for (const { reports } of state.trials) expect(reports.map(({ step }) => step)).toEqual([10, 20, 30, 40])
    const written = sweepJournal(sweep).next()
    const numbersOf = (name: string) =>
      written.filter(({ event }) => event === name).map((line) => Number('trial' in line ? line.trial : 'point' in line ? line.point : -1))
    const each = Array.from({ length: trials }, (_, number) => number)
    for (const name of ['queued', 'trialEnded', 'told', 'point'])
      expect(
        numbersOf(name).sort((a, b) => a - b),
        name,
      ).toEqual(each)
    const runs = new Set(state.trials.map(({ run }) => run))
    expect(runs.size).toBe(trials)
    expect(
      listRuns(world.runsFolder)
        .filter(({ stage, id }) => stage.name === 'second' && !runs.has(id))
        .map(({ id }) => id),
    ).toEqual([])
    console.log(`${state.drives} drives, retries ${JSON.stringify(state.trials.map((trial) => trial.retries))}`)
  },
)
