import { rmSync } from 'node:fs'
import { afterAll, expect, test } from 'vitest'
import { endOf, type Incident } from '../../src/domain/run/state.ts'
import { attach } from '../../src/runs/attach.ts'
import { withData } from '../../src/runs/chain.ts'
import { type Ask, sendCommand, stopRun } from '../../src/runs/control.ts'
import { prepareRun, startRun } from '../../src/runs/launch.ts'
import { prepareReplay, reportReplay } from '../../src/runs/replay.ts'
import { type Run, readState } from '../../src/store/runs.ts'
import { sideOf, tinyStages, tinyWorld } from './tiny-stages.ts'

const { world, data } = tinyWorld()

afterAll(() => rmSync(world.cwd, { recursive: true, force: true }))

const rates = (run: Run) => readState(run).points.map(({ step, learningRate }) => `${step}: ${learningRate}`)

test('a run whose learning rate was changed twice and that was stopped is repeated bit for bit, changes included', async () => {
  const { run: original } = await prepareRun(withData(sideOf({ ...tinyStages.vae, steps: 400 }), data), { verb: 'train' }, world)
  await startRun(original, world)
  let asked = Promise.resolve<unknown>(undefined)
  for await (const { event } of attach(original, world)) {
    if (event.event !== 'step') continue
    if (event.step === 4) asked = sendCommand(original, { name: 'set', path: 'learningRate', value: '*0.5' }, world)
    if (event.step === 10) asked = asked.then(() => sendCommand(original, { name: 'set', path: 'clip.norm', value: 0.5 }, world))
    if (event.step === 16) asked = asked.then(() => stopRun(original, {}, world))
  }
  await asked
  const state = readState(original)
  expect(endOf(state)).toMatchObject({ reason: 'stopped' })
  expect(state.changes.map(({ path }) => path)).toEqual(['learningRate', 'clip.norm'])

  const replay = await prepareReplay(original, world)
  expect(replay.identity).toMatchObject({ verb: 'replay', replays: original.id })
  await startRun(replay, world)
  for await (const _ of attach(replay, world));
  expect(reportReplay(original, replay)).toEqual({ verdict: { verdict: 'identical', steps: state.step }, differs: [] })
  expect(rates(replay)).toEqual(rates(original))
}, 300_000)

test('a run that went back from a poisoned learning rate is repeated bit for bit, roll-back included', async () => {
  const incidents = { policy: 'rollback', learningRateCut: 0.5 } as const
  const stage = { ...tinyStages.vae, steps: 18, incidents, checkpoint: { everySteps: 6, keepLast: 2 } }
  const { run: original } = await prepareRun(withData(sideOf(stage), data), { verb: 'train' }, world)
  await startRun(original, world)
  const asked: Promise<unknown>[] = []
  const ask = (count: number, command: Ask) => {
    if (asked.length === count) asked.push(sendCommand(original, command, world))
  }
  for await (const { event } of attach(original, world)) {
    if (event.event === 'step' && event.step >= 2) ask(0, { name: 'checkpoint' })
    if (event.event === 'checkpoint' && event.step > 0) ask(1, { name: 'set', path: 'learningRate', value: 1e30 })
    if (event.event === 'incident') ask(2, { name: 'set', path: 'clip.norm', value: 0.5 })
  }
  await Promise.all(asked)
  const state = readState(original)
  expect(endOf(state)).toMatchObject({ reason: 'completed' })
  const [incident] = state.incidents.filter(({ kind }) => kind === 'non-finite')
  expect(incident?.undone).toEqual({ learningRate: [1e30, 1e-3] })

  const replay = await prepareReplay(original, world)
  await startRun(replay, world)
  for await (const _ of attach(replay, world));
  expect(reportReplay(original, replay)).toEqual({ verdict: { verdict: 'identical', steps: 18 }, differs: [] })
  expect(rates(replay)).toEqual(rates(original))
  const wentBack = ({ kind, step, rolledBackTo }: Incident) => `${kind} at ${step}, back to ${rolledBackTo}`
  expect(readState(replay).incidents.map(wentBack)).toEqual(state.incidents.map(wentBack))
}, 300_000)
