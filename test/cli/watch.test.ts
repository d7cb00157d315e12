import { expect, vi } from 'vitest'
import type { TrainingWorld } from '../../src/cli/run-world.ts'
import { runWatch } from '../../src/cli/watch-run.ts'
import { stopRun } from '../../src/runs/control.ts'
import type { RunsWorld } from '../../src/runs/world.ts'
import { fakeWorld, launched, folderTest as test, until } from '../runs/fake-world.ts'
import { madeRun } from '../web/web-world.ts'

vi.setConfig({ testTimeout: 60_000 })

const plain = { once: false, json: false, runs: undefined, pythonEnv: undefined }

/** A terminal of 100 columns, or a pipe, whose Ctrl-C a test can press. */
function terminalOf(runs: RunsWorld, options: { isTTY: boolean }) {
  const said = { text: '', exitCode: undefined as number | undefined, interrupt: () => {} }
  const stdout = { write: (text: string) => (said.text += text), isTTY: options.isTTY, columns: 100 }
  const world: TrainingWorld = {
    cwd: runs.cwd,
    env: { STAGEWRIGHT_RUNS: runs.runsFolder, NO_COLOR: '1' },
    stdout,
    stderr: stdout,
    setExitCode: (code) => {
      said.exitCode = code
    },
    runsWorld: async () => runs,
    onInterrupt: (handler) => {
      said.interrupt = () => handler(1)
      return () => undefined
    },
    serveWeb: () => Promise.reject(new Error('no page here')),
    reportOf: () => Promise.reject(new Error('no page here')),
    packageRoot: runs.cwd,
  }
  return { world, said }
}

test('a table tells of those that train, or of those that are named', async ({ folder }) => {
  const runs = fakeWorld(folder)
  const done = madeRun(runs, { steps: 40, reason: 'completed' })
  const { world, said } = terminalOf(runs, { isTTY: false })
  await runWatch({ ...plain, run: [], once: true }, world)
  expect(said.text).toBe('no run trains now\n')
  await runWatch({ ...plain, run: [done.id, 'latest'], once: true }, world)
  expect(said.text).toMatch(/made-.*completed +━{16} +40\/40 +1\.\d+ +1\.\d+ +3e-4 +–/)
  said.text = ''
  await runWatch({ ...plain, run: [done.id], once: true, json: true }, world)
  expect(JSON.parse(said.text)).toMatchObject({ formatVersion: 1, runs: [{ id: done.id, standing: 'completed', step: 40 }] })
  await expect(runWatch({ ...plain, run: [], json: true }, world)).rejects.toMatchObject({ code: 'WATCH_FORM' })
  await expect(runWatch({ ...plain, run: ['nothing'] }, world)).rejects.toMatchObject({ code: 'RUN_UNKNOWN' })
})

test('several runs are drawn over their last drawing until all have ended; in a pipe each change is a line', async ({ folder }) => {
  const runs = fakeWorld(folder, { stepMs: 20 })
  const [first, second] = [await launched(runs, { steps: 100_000 }), await launched(runs, { steps: 100_000 })]
  const [screen, pipe] = [terminalOf(runs, { isTTY: true }), terminalOf(runs, { isTTY: false })]
  const watching = Promise.all([
    runWatch({ ...plain, run: [] }, screen.world),
    runWatch({ ...plain, run: [first.id, second.id] }, pipe.world),
  ])
  for (const run of [first, second]) {
    await until(run, runs, 'step', 3)
    await expect.poll(() => screen.said.text, { timeout: 20_000 }).toContain('\u001b[3A')
    await stopRun(run, {}, runs)
  }
  await watching
  expect(
    screen.said.text
      .split('\u001b[3A')
      .at(-1)
      ?.match(/stopped/g),
  ).toHaveLength(2)
  const lines = pipe.said.text.trim().split('\n')
  for (const { id } of [first, second]) expect(lines.filter((line) => line.startsWith(id)).at(-1)).toContain('stopped, step')
  expect(pipe.said.text).not.toContain('\u001b')
})

test('Ctrl-C leaves, and the run goes on', async ({ folder }) => {
  const runs = fakeWorld(folder, { stepMs: 20 })
  const run = await launched(runs, { steps: 100_000 })
  const other = madeRun(runs, { steps: 40, reason: 'completed' })
  const { world, said } = terminalOf(runs, { isTTY: true })
  const watching = runWatch({ ...plain, run: [run.id, other.id] }, world)
  await expect.poll(() => said.text, { timeout: 20_000 }).toContain('training')
  said.interrupt()
  await watching
  await stopRun(run, {}, runs)
})
