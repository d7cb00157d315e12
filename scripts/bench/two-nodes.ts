import type { AddressInfo } from 'node:net'
import { createServer } from 'node:net'
import { execa } from 'execa'
import { defaultStage } from '../../src/domain/stage/fields.ts'
import { type StageInput, stageSchema } from '../../src/domain/stage/schema.ts'
import { attach } from '../../src/runs/attach.ts'
import { prepareRun } from '../../src/runs/launch.ts'
import { nodeLauncher, startedByFirst, startFirstNode } from '../../src/runs/nodes.ts'
import type { RunsWorld } from '../../src/runs/world.ts'
import { trainerJournal } from '../../src/store/journal.ts'
import { filesOf, type Run } from '../../src/store/runs.ts'

const startPatienceSeconds = 60
/** The first steps start workers and warm caches. */
const firstMeasured = 5

/** Seconds a step and losses of a stage with a global batch of 2: two launchers of one rank each, or one launcher of two ranks. */
export async function trainedBy(nodes: 1 | 2, input: StageInput, steps: number, data: string, world: RunsWorld) {
  const parallel = { nodes, processes: 2 / nodes }
  const asked = { ...input, steps, parallel, data: { ...input.data, source: data }, batch: { perDevice: 1, accumulate: 1 } }
  const stage = stageSchema.parse({ ...defaultStage('two'), ...asked })
  const { run } = await prepareRun({ label: stage.name, stage, origins: new Map(), findings: [] }, { verb: 'train' }, world)
  const meeting = { host: '127.0.0.1', port: await freePort() }
  await startFirstNode(run, meeting, world)
  const second = nodes === 2 ? await joined(run, meeting, world) : undefined
  for await (const _ of attach(run, world));
  await second
  return measuredOf(run, steps)
}

async function joined(run: Run, meeting: { host: string; port: string }, world: RunsWorld) {
  const { number } = await startedByFirst(run, startPatienceSeconds)
  const { command, env } = nodeLauncher(run, number, meeting, 1, world)
  const [program = '', ...words] = command
  return execa(program, words, { env, cwd: run.folder, reject: false, stdio: 'ignore' })
}

function measuredOf(run: Run, steps: number) {
  const events = trainerJournal(filesOf(run.folder).trainer).next()
  const taken = events.flatMap((event) => (event.event === 'step' ? [event] : []))
  if (taken.length !== steps) throw new Error(`${run.id}: expected ${steps} steps, got ${taken.length}`)
  const [from, to] = [taken[firstMeasured - 1], taken.at(-1)]
  return {
    secondsPerStep: ((to?.ts ?? 0) - (from?.ts ?? 0)) / (steps - firstMeasured),
    losses: taken.map(({ loss }) => Number(loss)),
  }
}

async function freePort(): Promise<string> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  await new Promise((resolve) => server.close(resolve))
  return String(port)
}
