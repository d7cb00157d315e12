import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { test } from 'vitest'
import type { EngineChoice } from '../../src/domain/engine-choice.ts'
import type { RunEvent } from '../../src/domain/run/state.ts'
import { defaultStage } from '../../src/domain/stage/fields.ts'
import type { StageSide } from '../../src/domain/stage/origin.ts'
import { type Stage, stageSchema } from '../../src/domain/stage/schema.ts'
import { processesWhere } from '../../src/engines/process-identity.ts'
import { attach } from '../../src/runs/attach.ts'
import { prepareRun, startRun } from '../../src/runs/launch.ts'
import { supervise } from '../../src/runs/supervise.ts'
import type { RunsWorld } from '../../src/runs/world.ts'
import { runsWorldOf } from '../../src/runs-world.ts'
import { listRuns, type Run, readState } from '../../src/store/runs.ts'

/** How the fake trainer behaves; see `test/fake-trainer/packages/osplan/train/assemble.py`. */
export interface Behaviour {
  stepMs?: number
  startMs?: number
  dies?: { step: number; how: 'kill' | 'torn' | 'segfault' | 'exit' | 'fail' | 'memory' | 'bug' | 'rank' | 'hang' }
  diesInAttempt?: number
  withoutSocket?: boolean
  /** Learning rate above which the held-out loss is no number. */
  nanAbove?: number
}

/** Where processes of a test find their sockets and the program. */
export const pathsOf = (folder: string) => ({ XDG_RUNTIME_DIR: folder, STAGEWRIGHT_SOURCES: '1' })

/** Where the runs of a fake world train; on this machine where nothing is said. */
export interface Place {
  readonly env?: Readonly<Record<string, string>>
  readonly engine?: EngineChoice
}

/** The world of this machine with the fake trainer in place of Python. */
export function fakeWorld(folder: string, behaviour: Behaviour = {}, place: Place = {}): RunsWorld {
  const env = {
    ...process.env,
    ...place.env,
    ...pathsOf(folder),
    STAGEWRIGHT_PYTHON_ENV: join(import.meta.dirname, '../fake-trainer/python'),
    FAKE_TRAINER: JSON.stringify(behaviour),
  }
  return runsWorldOf({ cwd: folder, env, runsFolder: join(folder, 'runs'), chosenEngine: place.engine })
}

/** A test with a folder of its own, short enough for sockets. */
export const folderTest = test.extend<{ folder: string }>({
  // biome-ignore lint/correctness/noEmptyPattern: vitest reads what a fixture needs from its pattern
  folder: async ({}, use) => {
    const folder = mkdtempSync(join(tmpdir(), 'run-'))
    await use(folder)
    // A test that failed leaves its processes.
    for (const { pid } of processesWhere((words) => words.some((word) => word.startsWith(folder)))) endIfThere(pid)
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 })
  },
})

/** A process that is just ending may be gone before the signal. */
function endIfThere(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'ESRCH') throw cause
  }
}

export function sideOf(settings: Record<string, unknown> = {}): StageSide {
  const stage: Stage = stageSchema.parse({ ...defaultStage('small'), steps: 40, ...settings })
  return { label: stage.name, stage, origins: new Map(), findings: [] }
}

export async function launched(world: RunsWorld, settings: Record<string, unknown> = {}): Promise<Run> {
  const { run } = await prepareRun(sideOf(settings), { verb: 'train' }, world)
  await startRun(run, world)
  return run
}

/** Every event of a run up to its end. */
export async function followed(run: Run, world: RunsWorld, fromAttempt = 1): Promise<RunEvent[]> {
  const events: RunEvent[] = []
  for await (const item of attach(run, world, { fromAttempt, signal: AbortSignal.timeout(50_000) })) events.push(item)
  return events
}

/** Follows a run until an event of a name (and step) has come. */
export async function until(run: Run, world: RunsWorld, name: string, step = 0): Promise<void> {
  for await (const { event } of attach(run, world, { signal: AbortSignal.timeout(50_000) })) {
    if (event.event === name && (!('step' in event) || Number(event.step) >= step)) return
  }
  throw new Error(`${name} did not come`)
}

/** The run of a stage that another process starts, once its supervisor has taken it up. */
export async function startedRun(stage: string, world: RunsWorld): Promise<Run> {
  const until = Date.now() + 30_000
  while (Date.now() < until) {
    const run = listRuns(world.runsFolder).find((entry) => entry.stage.name === stage)
    if (run && readState(run).attempts.length > 0) return run
    await sleep(30)
  }
  throw new Error(`${stage} was not started`)
}

/** Supervisors in this process spare the start of a Node for each run. */
export function supervised(world: RunsWorld, { detached = false }: { detached?: boolean } = {}): RunsWorld {
  if (detached) return world
  const inside: RunsWorld = {
    ...world,
    startSupervisor: async (folder, attempt) => {
      let isOver = false
      const over = () => {
        isOver = true
      }
      // One that is not needed may outlive its test and its folder.
      supervise(folder, inside, { attempt }).then(over, over)
      return { hasEnded: () => isOver }
    },
  }
  return inside
}
