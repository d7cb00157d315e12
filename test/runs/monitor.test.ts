import { appendFileSync } from 'node:fs'
import { expect, vi } from 'vitest'
import { prepareRun } from '../../src/runs/launch.ts'
import { monitorRun } from '../../src/runs/monitor.ts'
import { runsWorldOf } from '../../src/runs-world.ts'
import { filesOf, type Run } from '../../src/store/runs.ts'
import { pathsOf, sideOf, folderTest as test } from './fake-world.ts'

vi.setConfig({ testTimeout: 60_000 })

/** A finished run's journal: a loss that wobbles by a tenth, with one step that is far off. */
function writeJournal(run: Run, wildStep: number): void {
  const lines = Array.from({ length: 200 }, (_, index) => {
    const step = index + 1
    const loss = step === wildStep ? 9 : 1 + 0.1 * Math.sin(step * 1.7)
    return { seq: index, ts: step, attempt: 1, event: 'step', step, loss, learningRate: 1e-4, gradientNorm: 1, secondsPerStep: 1 }
  })
  appendFileSync(filesOf(run.folder).trainer, lines.map((line) => `${JSON.stringify(line)}\n`).join(''))
}

test('the rules over a run’s journal say what is wrong, where, why they say so, and what to do', async ({ folder }) => {
  const world = runsWorldOf({ cwd: folder, env: { ...process.env, ...pathsOf(folder) }, runsFolder: folder })
  const { run } = await prepareRun(sideOf(), { verb: 'train' }, world)
  expect(await monitorRun(run, [], world)).toMatchObject({ alerts: [], steps: 0 })
  writeJournal(run, 150)
  const { alerts, steps, rules } = await monitorRun(run, [], world)
  expect(steps).toBe(200)
  expect(alerts).toMatchObject([{ rule: 'loss-spike', severity: 'alert', step: 150, evidence: { from: 150, to: 150, values: [[150, 9]] } }])
  expect(alerts[0]?.advice).toContain('incidents.onSpike')
  expect(rules.map(({ name }) => name)).toContain('divergence')
  expect(await monitorRun(run, ['incidents.watch.lossSpike=null'], world)).toMatchObject({ alerts: [] })
  await expect(monitorRun(run, ['incidents.watch.lossSpike=-1'], world)).rejects.toThrow('incidents.watch.lossSpike')
})

test('what the trainer refused is said again, with the numbers that JSON cannot hold', async ({ folder }) => {
  const world = runsWorldOf({ cwd: folder, env: { ...process.env, ...pathsOf(folder) }, runsFolder: folder })
  const { run } = await prepareRun(sideOf(), { verb: 'train' }, world)
  const refused = { seq: 0, ts: 1, attempt: 1, event: 'incident', step: 7, kind: 'non-finite', message: 'loss nan', action: 'stopped' }
  appendFileSync(filesOf(run.folder).trainer, `${JSON.stringify(refused)}\n`)
  const { alerts } = await monitorRun(run, [], world)
  expect(alerts).toMatchObject([{ rule: 'non-finite', step: 7, message: 'loss nan', evidence: { values: [[7, Number.NaN]] } }])
})
