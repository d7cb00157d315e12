import { basename, join } from 'node:path'
import type { PythonEnvironment } from '../bridge/environment.ts'
import type { EngineChoice } from '../domain/engine-choice.ts'
import type { Ranks } from '../domain/ranks.ts'
import type { Attempt } from '../domain/run/state.ts'
import type { Stage } from '../domain/stage/schema.ts'
import type { Job, JobHandle, JobPlace } from '../engines/engine.ts'
import { ranksOf } from '../store/ranks.ts'
import { engineOf, filesOf, type Run } from '../store/runs.ts'
import type { RunsWorld } from './world.ts'

/*
 * An attempt as its engine sees it.
 */

/** An attempt as far as its job goes. */
export type StartedJob = Pick<Attempt, 'number' | 'engine' | 'handle'>

type Named = Pick<Run, 'id' | 'folder'> & { readonly identity: Pick<Run['identity'], 'socket'> }

/** The handle in the journal; undefined where the supervisor was killed between starting the job and writing that down. */
export function handleOf({ handle }: Pick<Attempt, 'handle'>): JobHandle | undefined {
  return (handle as JobHandle | null | undefined) ?? undefined
}

/** What the job of an attempt is known by. */
export function jobPlace(run: Named, { number, engine }: Pick<Attempt, 'number' | 'engine'>): JobPlace {
  const words = basename(run.identity.socket, '.sock')
  return {
    runFolder: run.folder,
    attempt: number,
    engine,
    token: `${run.id}:${number}:${words}`,
    exitFile: filesOf(run.folder).exit(number),
  }
}

/** The job of an attempt, where its run trains. */
export function jobOf(run: Run, attempt: number, environment: PythonEnvironment): Job {
  return jobOfStage(run, run.stage, ranksOf(run), attempt, engineOf(run), environment)
}

/** The job a stage would be, under a name no run has; several have different ones. */
export function exampleJob(stage: Stage, world: RunsWorld, number = 0): Job {
  const id = `DATE-TIME-${stage.name}-${number.toString(16).padStart(4, '0')}`
  const run = { id, folder: join(world.runsFolder, id), identity: { socket: 'example.sock' } }
  return jobOfStage(run, stage, stage.parallel, 1, world.chosenEngine ?? { formatVersion: 1, kind: 'local' }, world.python())
}

function jobOfStage(
  run: Named,
  { memory }: Stage,
  { nodes, processes }: Omit<Ranks, 'formatVersion'>,
  attempt: number,
  choice: EngineChoice,
  environment: PythonEnvironment,
): Job {
  const files = filesOf(run.folder)
  return {
    ...jobPlace(run, { number: attempt, engine: choice.kind }),
    choice,
    processes,
    nodes,
    wantsGpus: memory.device !== 'cpu',
    threads: memory.threads,
    ...environment,
    log: files.log(attempt),
    script: files.script(attempt),
  }
}
