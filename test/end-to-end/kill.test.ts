import { readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import type { TrainerEvent } from '../../src/domain/protocol.ts'
import { endOf } from '../../src/domain/run/state.ts'
import type { StageInput } from '../../src/domain/stage/schema.ts'
import { attach } from '../../src/runs/attach.ts'
import { withData } from '../../src/runs/chain.ts'
import { continueRun, prepareRun, startRun } from '../../src/runs/launch.ts'
import { type Run, readState } from '../../src/store/runs.ts'
import { sideOf, tinyStages, tinyWorld } from './tiny-stages.ts'

const { world, data } = tinyWorld()
const finished = new Map<string, Run>()

afterAll(() => rmSync(world.cwd, { recursive: true, force: true }))

type Step = Extract<TrainerEvent, { event: 'step' }>

function stepLines(run: Run): Step[] {
  const lines = readFileSync(join(run.folder, 'trainer.jsonl'), 'utf8').split('\n').filter(Boolean)
  return lines.map((line) => JSON.parse(line) as Step).filter(({ event }) => event === 'step')
}

/** What a step did, as exact text. */
function trace(steps: readonly Step[]): string[] {
  return steps.map(({ step, loss, gradientNorm, learningRate }) => `${step}: ${loss} ${gradientNorm} ${learningRate}`)
}

async function prepared(stage: StageInput): Promise<Run> {
  return (await prepareRun(withData(sideOf(stage), data), { verb: 'train', earlier: finished }, world)).run
}

async function toItsEnd(run: Run): Promise<void> {
  for await (const _ of attach(run, world));
}

/** Trains until a step at random, kills the trainer there, and returns its pids. */
async function killedAtRandom(run: Run): Promise<{ pids: readonly number[]; at: number }> {
  const at = 9 + Math.floor(Math.random() * 9)
  console.log(`killing ${run.stage.name} after step ${at}`)
  let pids: readonly number[] = []
  let isKilled = false
  for await (const { event } of attach(run, world)) {
    if (event.event === 'ready') pids = event.pids
    if (event.event === 'step' && event.step >= at && !isKilled) {
      isKilled = true
      for (const pid of pids) process.kill(pid, 'SIGKILL')
    }
  }
  return { pids, at }
}

/** A run that died with steps after its last checkpoint; a kill that hits a checkpoint exactly is tried again. */
async function killedBetweenCheckpoints(stage: StageInput): Promise<Run> {
  for (;;) {
    const run = await prepared(stage)
    await startRun(run, world)
    const { pids } = await killedAtRandom(run)
    expect(pids.length).toBeGreaterThan(0)
    for (const pid of pids) expect(() => process.kill(pid, 0)).toThrow()
    const state = readState(run)
    expect(endOf(state)).toMatchObject({ reason: 'killed' })
    if ((stepLines(run).at(-1)?.step ?? 0) > (state.checkpoints.at(-1)?.step ?? 0)) return run
  }
}

describe('a run that is killed and continued', () => {
  test.each(Object.entries(tinyStages))(
    'repeats the losses of an unbroken one bit for bit: %s',
    async (name, stage) => {
      const unbroken = await prepared(stage)
      await startRun(unbroken, world)
      await toItsEnd(unbroken)
      expect(endOf(readState(unbroken))).toMatchObject({ reason: 'completed', message: 'all 24 steps are done' })
      finished.set(name, unbroken)

      const killed = await killedBetweenCheckpoints(stage)
      const before = stepLines(killed)
      await continueRun(killed, world)
      await toItsEnd(killed)
      expect(endOf(readState(killed))).toMatchObject({ reason: 'completed' })

      const after = stepLines(killed).filter(({ attempt }) => attempt === 2)
      const doneAgain = after.filter(({ step }) => before.some((earlier) => earlier.step === step))
      expect(doneAgain.length).toBeGreaterThan(0)
      const steps = new Map([...before, ...after].map((step) => [step.step, step]))
      expect(trace([...steps.values()].sort((a, b) => a.step - b.step))).toEqual(trace(stepLines(unbroken)))
      expect(trace(doneAgain)).toEqual(trace(before.filter(({ step }) => doneAgain.some((again) => again.step === step))))
    },
    300_000,
  )
})
