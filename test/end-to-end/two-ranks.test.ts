import { execFile } from 'node:child_process'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { afterAll, expect, test } from 'vitest'
import type { RunState } from '../../src/domain/run/state.ts'
import { packageRoot } from '../../src/runs-world.ts'
import { listRuns, type Run, readState } from '../../src/store/runs.ts'
import { tinyStages, tinyWorld } from './tiny-stages.ts'

/* Ranks of torchrun that speak over gloo, asked everything by commands as a person types them. One rank has quicker tests. */
const isFull = process.env.STAGEWRIGHT_FULL === '1'
const { world, data } = tinyWorld()

afterAll(() => rmSync(world.cwd, { recursive: true, force: true, maxRetries: 5 }))

async function stagewright(...words: string[]): Promise<string> {
  const program = [join(packageRoot, 'bin', 'stagewright.mjs'), ...words]
  return (await promisify(execFile)(process.execPath, program, { cwd: world.cwd, env: { ...process.env, NO_COLOR: '1' } })).stdout
}

async function until(run: Run, isSo: (state: RunState) => boolean): Promise<void> {
  while (!isSo(readState(run))) await sleep(20)
}

const rates = ({ points }: RunState) => points.map(({ step, learningRate }) => `${step}: ${learningRate}`)

test.runIf(isFull)(
  'a learning rate changed on two ranks acts at one step, is kept by continue and repeated by replay',
  {
    timeout: 300_000,
  },
  async () => {
    const { vae } = tinyStages.first
    const stage = {
      ...tinyStages.first,
      steps: 60,
      batch: { perDevice: 1, accumulate: 1 },
      parallel: { processes: 2 },
      vae: { ...vae, weights: 'random' },
      schedule: { name: 'constant' },
      checkpoint: { everySteps: 10, keepLast: 2 },
    }
    writeFileSync(join(world.cwd, 'two.yaml'), JSON.stringify({ formatVersion: 1, name: 'two', stages: [stage] }))
    await stagewright('train', 'two.yaml#first', '--data', data, '--detach')
    const [run] = listRuns(world.runsFolder) as [Run]
    await until(run, ({ step }) => step >= 3)
    const told = await stagewright('set', run.id, 'learningRate=*0.5', '--why', 'it swings')
    const change = readState(run).changes[0] as RunState['changes'][number]
    expect(told).toBe(`${run.id}: learningRate is 0.0005 from step ${change.step} on\n`)
    await until(run, ({ step }) => step >= change.step + 2)
    const ready = readFileSync(join(run.folder, 'trainer.jsonl'), 'utf8')
    const { pids } = JSON.parse(ready.split('\n').find((line) => line.includes('"ready"')) ?? '{}') as { pids: number[] }
    expect(pids).toHaveLength(2)
    for (const pid of pids) process.kill(pid, 'SIGKILL')
    await until(run, () => pids.every((pid) => !isThere(pid)))
    await stagewright('show', run.id)
    await stagewright('continue', run.id)

    const state = readState(run)
    expect(state.attempts.map(({ end }) => end?.reason)).toEqual(['killed', 'completed'])
    const expected = Array.from({ length: 60 }, (_, index) => `${index + 1}: ${index + 1 < change.step ? 0.001 : 0.0005}`)
    expect(rates(state)).toEqual(expected)
    const report = JSON.parse(await stagewright('replay', run.id, '--json')) as { verdict: unknown; replay: string }
    expect(report).toMatchObject({ verdict: { verdict: 'identical', steps: 60 }, differs: [] })
    expect(rates(readState(listRuns(world.runsFolder).find(({ id }) => id === report.replay) as Run))).toEqual(expected)
  },
)

test.runIf(isFull)('a run goes on with one rank and again with two, and its losses are those of two', { timeout: 300_000 }, async () => {
  const { vae } = tinyStages.first
  const stage = { ...tinyStages.first, steps: 36, batch: { perDevice: 1, accumulate: 1 }, parallel: { processes: 2 } }
  const recipe = { formatVersion: 1, name: 'ranks', stages: [{ ...stage, name: 'ranks', vae: { ...vae, weights: 'random' } }] }
  writeFileSync(join(world.cwd, 'ranks.yaml'), JSON.stringify(recipe))
  await stagewright('train', 'ranks.yaml#ranks', '--data', data, '--detach')
  const changed = listRuns(world.runsFolder).at(-1) as Run
  await stagewright('stop', changed.id, '--after', '12')
  await until(changed, ({ attempts }) => attempts[0]?.end !== undefined)
  await stagewright('continue', changed.id, '--processes', '1', '--detach')
  await stagewright('stop', changed.id, '--after', '24')
  await until(changed, ({ attempts }) => attempts[1]?.end !== undefined)
  await stagewright('continue', changed.id, '--processes', '2')
  const state = readState(changed)
  expect(state.attempts.map(({ pids, finished }) => [pids.length, finished?.step])).toEqual([
    [2, 12],
    [1, 24],
    [2, 36],
  ])
  const { replay } = JSON.parse(await stagewright('replay', changed.id, '--json')) as { replay: string }
  const unbroken = readState(listRuns(world.runsFolder).find(({ id }) => id === replay) as Run)
  expect(unbroken.attempts[0]?.pids).toHaveLength(2)
  expect(unbroken.points).toHaveLength(36)
  for (const [index, { step, loss }] of state.points.entries()) {
    expect(step).toBe(index + 1)
    expect(Math.abs(loss / (unbroken.points[index]?.loss ?? Number.NaN) - 1)).toBeLessThan(1e-5)
  }
})

function isThere(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}
