import { appendFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'vitest'
import { exportCurves } from '../../src/runs/export-curves.ts'
import { importCurves } from '../../src/runs/import-curves.ts'
import { continueRun } from '../../src/runs/launch.ts'
import { prepareReplay } from '../../src/runs/replay.ts'
import { settledState } from '../../src/runs/supervise.ts'
import { listRuns, type Run, readState } from '../../src/store/runs.ts'
import { fakeWorld, folderTest } from './fake-world.ts'

const line = (step: number, more: object) => `${JSON.stringify({ step, ts: 100 + step, ...more })}\n`
const log = [
  line(1, { loss: 3, lr: 1e-3, kl: 7 }),
  line(2, { loss: 2, lr: 1e-3, grad_norm: 1 }),
  line(2, { eval_loss: 2.5 }),
  line(4, { loss: null }),
].join('')

folderTest('a log of another tool becomes a run that can be looked at and not trained', async ({ folder }) => {
  const world = fakeWorld(folder)
  writeFileSync(join(folder, 'train.jsonl'), log)
  expect(await importCurves('train.jsonl', { name: undefined, follow: undefined }, world, () => undefined)).toBe(2)
  const [run] = listRuns(world.runsFolder) as [Run]
  expect(run.identity).toMatchObject({ verb: 'import', source: join(folder, 'train.jsonl') })
  const state = await settledState(run, world)
  expect(state.points).toMatchObject([
    { step: 1, loss: 3, learningRate: 1e-3 },
    { step: 2, loss: 2, gradientNorm: 1, secondsPerStep: 1 },
  ])
  expect(state.heldOut).toMatchObject([{ step: 2, raw: { loss: 2.5 } }])
  expect(state.attempts).toMatchObject([{ end: { reason: 'completed', message: 'imported from train.jsonl' } }])
  await expect(continueRun(run, world)).rejects.toMatchObject({ code: 'RUN_IMPORTED' })
  await expect(prepareReplay(run, world)).rejects.toMatchObject({ code: 'RUN_IMPORTED' })
  const csv = Buffer.from(await exportCurves(run, 'csv')).toString()
  const [head = '', ...rows] = csv.trim().split('\r\n')
  const at = (row: string | undefined, name: string) => row?.split(',')[head.split(',').indexOf(name)]
  expect(rows.map((row) => [at(row, 'step'), at(row, 'loss'), at(row, 'extra.kl'), at(row, 'heldOut.raw')])).toEqual([
    ['1', '3', '7', ''],
    ['2', '2', '', '2.5'],
  ])
})

folderTest('a log that grows is followed until it is left', async ({ folder }) => {
  const world = fakeWorld(folder)
  writeFileSync(join(folder, 'train.jsonl'), line(1, { loss: 3 }))
  const leaving = new AbortController()
  const done = importCurves('train.jsonl', { name: 'mine', follow: leaving.signal }, world, () => undefined)
  await expect.poll(() => listRuns(world.runsFolder).length).toBe(1)
  const [run] = listRuns(world.runsFolder) as [Run]
  expect(run.id).toContain('-mine-')
  appendFileSync(join(folder, 'train.jsonl'), line(2, { loss: 2 }) + line(3, { loss: 1 }))
  await expect.poll(() => readState(run).points.map(({ loss }) => loss), { timeout: 5000 }).toEqual([3, 2])
  expect((await settledState(run, world)).attempts.at(-1)?.end).toBeUndefined()
  leaving.abort()
  expect(await done).toBe(3)
  expect(readState(run).points.map(({ loss }) => loss)).toEqual([3, 2, 1])
})

folderTest('a log without numbers is refused before a run is made', async ({ folder }) => {
  const world = fakeWorld(folder)
  writeFileSync(join(folder, 'train.jsonl'), 'nothing here\n')
  await expect(importCurves('train.jsonl', { name: undefined, follow: undefined }, world, () => undefined)).rejects.toMatchObject({
    code: 'CURVES_EMPTY',
  })
  expect(listRuns(world.runsFolder)).toEqual([])
})
