import { appendFileSync, mkdirSync, readFileSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import { get, type IncomingMessage } from 'node:http'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, vi } from 'vitest'
import { sweepSchema } from '../../src/domain/sweep/schema.ts'
import { stopRun } from '../../src/runs/control.ts'
import { WatchedRuns } from '../../src/runs/watch/watched-runs.ts'
import type { RunsWorld } from '../../src/runs/world.ts'
import { filesOf, readState } from '../../src/store/runs.ts'
import { createSweep, sweepFiles } from '../../src/store/sweeps.ts'
import type { Served } from '../../src/web/server.ts'
import { fakeWorld, folderTest, followed, launched, until } from '../runs/fake-world.ts'
import { stepLine } from '../store/made-journal.ts'
import { ask, madeRun, served, tokens } from './web-world.ts'

vi.setConfig({ testTimeout: 60_000 })

const test = folderTest.extend<{ world: RunsWorld; server: Served }>({
  world: async ({ folder }, use) => use(fakeWorld(folder)),
  server: async ({ world }, use) => {
    const server = await served(world)
    await use(server)
    await server.close()
  },
})

/** Messages of a run's live events, as they come. */
class Listening {
  readonly messages: {
    id: string
    data: { cursor: string; summary: { step: number }; events: { event: string; seq: number }[]; left: number }
  }[] = []
  #text = ''
  readonly #response: IncomingMessage

  private constructor(response: IncomingMessage) {
    this.#response = response
    response.setEncoding('utf8').on('data', (chunk: string) => this.#take(chunk))
    response.on('error', () => undefined)
  }

  static open({ port }: Served, id: string, seen?: string): Promise<Listening> {
    const headers = { authorization: `Bearer ${tokens.read}`, ...(seen === undefined ? {} : { 'last-event-id': seen }) }
    return new Promise((resolve, reject) => {
      get({ host: '127.0.0.1', port, path: `/api/runs/${id}/events`, headers, agent: false }, (response) =>
        resolve(new Listening(response)),
      ).on('error', reject)
    })
  }

  #take(chunk: string): void {
    const parts = (this.#text + chunk).split('\n\n')
    this.#text = parts.pop() ?? ''
    for (const part of parts) {
      const [, id = '', data] = /^id: (.*)\ndata: (.*)$/.exec(part) ?? []
      if (data) this.messages.push({ id, data: JSON.parse(data) })
    }
  }

  async until(condition: () => boolean): Promise<void> {
    for (let tries = 0; !condition(); tries += 1) {
      if (tries > 500) throw new Error('it did not come')
      await sleep(20)
    }
  }

  close(): void {
    this.#response.destroy()
  }
}

test('the list derives every state, and reads only what has changed', async ({ world, server }) => {
  const done = madeRun(world, { steps: 40, reason: 'completed', day: 1 })
  const gone = madeRun(world, { steps: 40, day: 2, name: 'killed' })
  const child = madeRun(world, { steps: 40, reason: 'stopped', day: 3, parent: { run: done.id, step: 40, use: 'ema', sha256: 'x' } })
  writeFileSync(join(world.runsFolder, 'notes.txt'), 'no run')
  const { json } = await ask(server, '/api/runs')
  expect(json).toMatchObject({ formatVersion: 1, pending: 0 })
  expect(json.runs.map(({ id, standing, parent }: Record<string, { run?: string }>) => [id, standing, parent?.run])).toEqual([
    [child.id, 'stopped', done.id],
    [gone.id, 'gone', undefined],
    [done.id, 'completed', undefined],
  ])
  expect(json.runs[0]).toMatchObject({ step: 40, steps: 40, learningRate: 0.0003, heldOutLoss: expect.any(Number) })
})

/** Making a thousand folders takes longer than listing them. */
const manyRuns = process.env.STAGEWRIGHT_FULL ? 1000 : 200

test(`${manyRuns} runs are listed within a second, and again in a moment`, { timeout: 120_000 }, async ({ world }) => {
  const { id, folder } = madeRun(world, { steps: 5, reason: 'completed' })
  const files = ['run.json', 'stage.json', 'trainer.jsonl', 'supervisor.jsonl'].map(
    (name) => [name, readFileSync(join(folder, name), 'utf8')] as const,
  )
  for (let run = 1; run < manyRuns; run += 1) {
    const other = `20260101-000000-made-${run.toString(16).padStart(4, '0')}`
    mkdirSync(join(world.runsFolder, other))
    for (const [name, text] of files) writeFileSync(join(world.runsFolder, other, name), text.replaceAll(id, other))
  }
  const runs = new WatchedRuns(world)
  const began = performance.now()
  const first = await runs.list()
  expect(first.runs.length + first.pending).toBe(manyRuns)
  expect(performance.now() - began).toBeLessThan(1000)
  let list = first
  while (list.pending > 0) list = await runs.list()
  const cpu = process.cpuUsage()
  expect((await runs.list()).runs).toHaveLength(manyRuns)
  const used = process.cpuUsage(cpu)
  expect((used.user + used.system) / 1000).toBeLessThan(400)
  // A server that starts again knows what an earlier one has derived.
  const again = new WatchedRuns(world)
  let other = await again.list()
  while (other.pending > 0) other = await again.list()
  expect(other).toEqual(list)
})

test('curves tell every point where there are few, how many there are, and what was done again', async ({ world, server }) => {
  const { id } = madeRun(world, { steps: 2000, backAt: 1500, backTo: 1200, spikes: { 777: 90 }, reason: 'completed' })
  const series = async (query: string) => (await ask(server, `/api/runs/${id}/series?${query}`)).json
  const whole = await series('columns=loss,gradientNorm&width=100')
  expect(whole).toMatchObject({ axis: 'step', bounds: [1, 2000], of: 2000 })
  expect(whole.series[0].curve).toMatchObject({ points: 2000, isExact: false, nonFinite: 0 })
  expect(Math.max(...whole.series[0].curve.y)).toBe(90)
  expect(whole.series[0].superseded.points).toBe(300)
  const near = await series('columns=loss&from=770&to=780&width=100&smoothing=0.9')
  expect(near.series[0].curve).toMatchObject({
    points: 11,
    isExact: true,
    x: [769, 770, 771, 772, 773, 774, 775, 776, 777, 778, 779, 780, 781],
  })
  expect(near.series[0].smooth.points).toBe(11)
  expect((await series('columns=loss&axis=samples&width=10')).bounds).toEqual([8, 16_000])
  expect((await series('columns=loss&axis=relative&width=10')).bounds[0]).toBe(0)
  expect((await ask(server, `/api/runs/${id}/series?columns=nothing`)).json.error.code).toBe('COLUMN_UNKNOWN')
  expect((await ask(server, `/api/runs/${id}/row?step=777`)).json.row).toMatchObject({ step: 777, loss: 90, 'split.data': 0.0016 })
  const heat = (await ask(server, `/api/runs/${id}/heat?width=50`)).json
  expect(heat.means).toHaveLength(10)
  expect(heat.means[1].every((mean: unknown) => mean === null)).toBe(true)
  expect(heat.points).toBe(5 * 2000)
})

test('a run’s page has its stage with origins, its lineage, and its difference to others', async ({ world, server }) => {
  const parent = madeRun(world, { steps: 10, reason: 'completed', day: 1 })
  const run = madeRun(world, {
    steps: 20,
    day: 2,
    parent: { run: parent.id, step: 10, use: 'raw', sha256: 'x' },
    stage: { learningRate: 1e-5 },
  })
  const { json } = await ask(server, `/api/runs/${run.id}/stage`)
  expect(json.settings.find(({ path }: { path: string }) => path === 'learningRate')).toMatchObject({
    value: 1e-5,
    group: 'optimiser',
    impact: 'live',
  })
  const diff = (await ask(server, `/api/diff?a=${parent.id}&b=${run.id}`)).json
  expect(diff.changes.map(({ path }: { path: string }) => path)).toEqual(expect.arrayContaining(['learningRate', 'steps']))
  expect((await ask(server, `/api/diff?a=defaults&b=v1.3/t2v-1`)).status).toBeLessThan(500)
  expect((await ask(server, `/api/runs/${run.id}/lineage`)).json.ancestors).toMatchObject([{ id: parent.id, fromStep: 10, use: 'raw' }])
  expect((await ask(server, `/api/runs/${parent.id}/lineage`)).json.descendants).toMatchObject([{ id: run.id, parent: parent.id }])
})

test('a sweep shows its trials, why they were given up, and its runs stand together in the list', async ({ world, server }) => {
  const run = madeRun(world, { steps: 20, reason: 'completed' })
  const sweep = createSweep(
    { runsFolder: world.runsFolder, now: new Date(), random: world.random },
    {
      file: 's.yaml',
      cwd: world.cwd,
      sweep: sweepSchema.parse({ formatVersion: 1, name: 'rates', recipe: 'r.yaml', stage: 'made', space: { learningRate: [1e-4, 1e-3] } }),
      axes: [{ kind: 'real', path: 'learningRate', when: {}, min: 1e-4, max: 1e-3, step: null, log: true, points: null }],
      stages: [run.stage],
      contentHash: 'x',
      engine: null,
      forkedFrom: null,
    },
  )
  const point = (number: number, learningRate: number) => ({
    event: 'point',
    point: number,
    asked: number,
    values: { learningRate },
    infeasible: null,
    twinOf: null,
  })
  const report = {
    event: 'report',
    trial: 1,
    step: 10,
    value: 0.9,
    standardError: 0.1,
    prune: true,
    reason: 'worse than half of the others',
    compared: [],
  }
  const lines = [
    { event: 'opened', formatVersion: 1 },
    point(0, 1e-4),
    point(1, 1e-3),
    ...[0, 1].map((trial) => ({ event: 'queued', trial, point: trial, seed: null, branchOf: null })),
    { event: 'starting', trial: 1, run: run.id, reused: false, prefix: [], branchedFrom: null, attemptsBefore: 0 },
    report,
  ]
  writeFileSync(sweepFiles(sweep.folder).journal, lines.map((line, seq) => `${JSON.stringify({ seq, ts: seq, ...line })}\n`).join(''))
  const { json } = await ask(server, `/api/sweeps/${sweep.id}`)
  expect(json).toMatchObject({ name: 'rates', axes: [{ path: 'learningRate', isLog: true }], importance: null })
  expect(json.trials).toMatchObject([
    { number: 0, status: 'queued', values: { learningRate: 1e-4 }, value: null },
    { number: 1, run: run.id, values: { learningRate: 1e-3 }, step: 10, value: 0.9, standardError: 0.1 },
  ])
  expect((await ask(server, '/api/runs')).json.groups).toEqual({ [run.id]: `sweep ${sweep.id}` })
  expect((await ask(server, '/api/sweeps/nothing')).status).toBe(404)
})

test('a run that trains is told live, and what a viewer misses it is told when it comes back', async ({ world }) => {
  const trainer = fakeWorld(join(world.cwd), { stepMs: 20 })
  const run = await launched(trainer, { steps: 100_000 })
  let server = await served(world)
  const first = await Listening.open(server, run.id)
  await first.until(() => first.messages.length >= 3)
  const steps = first.messages.map(({ data }) => data.summary.step)
  expect(steps).toEqual(steps.toSorted((a, b) => a - b))
  expect(steps.at(-1)).toBeGreaterThan(steps[0] ?? 0)
  const seen = first.messages.at(-1)?.id
  first.close()
  const { port } = server
  await server.close()
  expect((await ask(server, '/api/session').catch(() => undefined))?.status).toBeUndefined()
  server = await served(world, undefined, port)
  const call = (body: object) =>
    ask(server, `/api/runs/${run.id}/control`, {
      method: 'POST',
      body: JSON.stringify(body),
      headers: { 'content-type': 'application/json' },
    })
  expect((await call({ name: 'set', path: 'learningRate', value: 1e-6, reason: 'too noisy' })).json).toMatchObject({ effective: 1e-6 })
  expect((await call({ name: 'set', path: 'model.layers', value: 1 })).json.error.code).toMatch(/SETTING_UNKNOWN|NOT_LIVE/)
  const second = await Listening.open(server, run.id, seen)
  await second.until(() => second.messages.length > 0)
  expect(second.messages[0]?.data.events).toMatchObject([
    { event: 'command', name: 'set', effective: 1e-6, by: expect.stringContaining('(page)') },
  ])
  expect((await call({ name: 'stop' })).status).toBe(200)
  await followed(run, world)
  await second.until(
    () =>
      second.messages.at(-1)?.data.events.length === 0 ||
      second.messages.some(({ data }) => data.events.some(({ event }) => event === 'finished')),
  )
  const seqs = second.messages.flatMap(({ data }) => data.events.map(({ seq }) => seq))
  expect(seqs).toEqual([...new Set(seqs)].sort((a, b) => a - b))
  expect((await call({ name: 'pause' })).json.error.code).toBe('RUN_NOT_ACTIVE')
  expect((await ask(server, `/api/runs/${run.id}`)).json).toMatchObject({ summary: { standing: 'stopped' } })
  expect((await ask(server, `/api/runs/${run.id}/hand-off?name=continue`)).json.handOff.carried).toContain('optimiser state')
  expect((await call({ name: 'continue' })).json.handOff).toMatchObject({ verb: 'continue' })
  await stopRun(run, {}, world)
  await followed(run, world, 2)
  second.close()
  await server.close()
})

test('a run whose process is gone is said to be, and a recorded end is seen', async ({ world, server }) => {
  const run = await launched(world, { steps: 5000 })
  await until(run, world, 'step', 3)
  expect((await ask(server, '/api/runs')).json.runs[0].standing).toBe('training')
  await stopRun(run, { kill: true }, world)
  await followed(run, world)
  expect((await ask(server, '/api/runs')).json.runs[0]).toMatchObject({ standing: 'killed', message: expect.stringContaining('killed by') })
})

test('a journal that grows costs what it grew by; a touched one nothing', async ({ world, server }) => {
  const run = madeRun(world, { steps: 3000, reason: 'completed' })
  const path = filesOf(run.folder).trainer
  const first = (await ask(server, `/api/runs/${run.id}`)).json
  appendFileSync(path, stepLine(3001, { seq: 9000 }))
  const second = (await ask(server, `/api/runs/${run.id}`)).json
  expect([first.summary.step, second.summary.step]).toEqual([3000, 3001])
  utimesSync(path, new Date(), new Date())
  expect((await ask(server, `/api/runs/${run.id}`)).json).toEqual(second)
  expect(readState(run).step).toBe(3001)
  expect(statSync(path).size).toBeGreaterThan(0)
})

test('a thousand viewers of one run are all told', { timeout: 120_000 }, async ({ world, server }) => {
  const run = madeRun(world, { steps: 50 })
  const viewers: Listening[] = []
  for (let viewer = 0; viewer < 1000; viewer += 1) viewers.push(await Listening.open(server, run.id))
  await viewers[999]?.until(() => viewers.every(({ messages }) => messages.length === 1))
  const cpu = process.cpuUsage()
  appendFileSync(filesOf(run.folder).trainer, stepLine(51, { seq: 9000 }))
  await viewers[999]?.until(() => viewers.every(({ messages }) => messages.length === 2))
  expect(viewers.every(({ messages }) => messages[1]?.data.summary.step === 51)).toBe(true)
  const used = process.cpuUsage(cpu)
  expect((used.user + used.system) / 1000).toBeLessThan(5000)
  expect((await ask(server, '/api/session')).status).toBe(200)
  for (const viewer of viewers) viewer.close()
})
