import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { findPython } from '../../src/bridge/environment.ts'
import { openCurves } from '../../src/trackers/curves.ts'
import { executablePath, launchedBrowser } from '../../test/web/browser.ts'
import { madeRun } from '../../test/web/web-world.ts'
import type { Benchmark, Measured } from './figure.ts'
import type { Bench } from './group.ts'
import { servedRuns, steppingRun } from './served-runs.ts'
import { inTurns } from './turns.ts'

const scalars = 400_000
const viewers = 1000
const trainSeconds = 4
const manyRuns = 1000

/** What reading TensorBoard's files, a thousand viewers, and a thousand runs cost. */
export const watchingBenchmarks: readonly Benchmark[] = [
  {
    name: 'event-import',
    what: `a TensorBoard event file of ${scalars.toLocaleString('en')} scalars read with its checksums (reference: TensorBoard's own reader)`,
    figure: 'value',
    unit: 'scalars/s',
    goal: { at: 'least', value: 2_000_000 },
  },
  {
    name: 'viewers',
    what: `processor time of a training step with ${viewers.toLocaleString('en')} live viewers of the run against none`,
    figure: 'ratio',
    unit: '×',
    goal: { at: 'most', value: 1.01 },
  },
  {
    name: 'first-paint',
    what: `the page over ${manyRuns.toLocaleString('en')} runs, from the request to their table on the screen of Chromium`,
    figure: 'value',
    unit: 'ms',
    goal: { at: 'most', value: 1000 },
  },
]

export async function* measureWatching(bench: Bench): AsyncIterable<Measured> {
  yield await eventImport(bench)
  yield await stepsWithViewers(bench)
  yield await firstPaint(bench)
}

const writing = `
import sys
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
with open(sys.argv[1], "wb") as file:
    writer = RecordWriter(file)
    for step in range(int(sys.argv[2])):
        value = Summary.Value(tag="train/loss", simple_value=1 / (step + 1))
        writer.write(Event(wall_time=1e9 + step, step=step, summary=Summary(value=[value])).SerializeToString())
`
const reading = `
import sys, time
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
began, found = time.perf_counter(), 0
for record in RawEventFileLoader(sys.argv[1]).Load():
    event = Event.FromString(record)
    for value in event.summary.value:
        found += 1
        point = (value.tag, event.step, event.wall_time, value.simple_value)
print(found / (time.perf_counter() - began))
`

async function eventImport(bench: Bench): Promise<Measured> {
  const { python } = findPython(bench.root, process.env)
  const path = join(bench.scratch, 'events.out.tfevents.1.bench')
  try {
    execFileSync(python, ['-c', writing, path, String(scalars)], { stdio: ['ignore', 'ignore', 'pipe'] })
  } catch {
    return { name: 'event-import', skipped: 'tensorboard is not installed' }
  }
  const series = await inTurns(bench.rounds(7), {
    ours: () => {
      const began = performance.now()
      const found = openCurves(path).next().length
      if (found !== scalars) throw new Error(`read ${found} scalars of ${scalars}`)
      return (found * 1000) / (performance.now() - began)
    },
    reference: () => Number(execFileSync(python, ['-c', reading, path], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })),
  })
  return { name: 'event-import', series }
}

/** The trainer's own processor time: what the machine's other processes do to its caches is in it, waiting is not. */
async function stepsWithViewers(bench: Bench): Promise<Measured> {
  const runsFolder = join(bench.scratch, 'watched')
  const run = madeRun({ runsFolder, socketFolder: bench.scratch, random: digits }, { steps: 100 })
  const server = await servedRuns(await bench.program(), runsFolder)
  const trainer = steppingRun(findPython(bench.root, process.env).python, run.folder, 100)
  try {
    const { ours = [], reference = [] } = await inTurns(bench.rounds(10), {
      reference: () => trainer.train(trainSeconds),
      ours: async () => {
        const leave = await server.watch(run.id, viewers)
        const used = await trainer.train(trainSeconds)
        leave()
        return used
      },
    })
    return { name: 'viewers', series: { ours, reference }, note: 'seconds of a step' }
  } finally {
    trainer.close()
    server.close()
  }
}

async function firstPaint(bench: Bench): Promise<Measured> {
  if (!existsSync(executablePath)) return { name: 'first-paint', skipped: `no Chromium at ${executablePath}` }
  const runsFolder = join(bench.scratch, 'many')
  const { id, folder } = madeRun({ runsFolder, socketFolder: bench.scratch, random: digits }, { steps: 200, reason: 'completed' })
  const files = ['run.json', 'stage.json', 'trainer.jsonl', 'supervisor.jsonl'].map(
    (name) => [name, readFileSync(join(folder, name), 'utf8')] as const,
  )
  for (let run = 1; run < manyRuns; run += 1) {
    const other = `20260101-000000-made-${run.toString(16).padStart(4, '0')}`
    mkdirSync(join(runsFolder, other))
    for (const [name, text] of files) writeFileSync(join(runsFolder, other, name), text.replaceAll(id, other))
  }
  const server = await servedRuns(await bench.program(), runsFolder)
  const browser = await launchedBrowser()
  try {
    const painted: number[] = []
    const { ours = [] } = await inTurns(bench.rounds(5), {
      ours: async () => {
        const page = await (await browser.newContext()).newPage()
        await page.goto(server.url)
        await page.locator('table.runs tbody tr').nth(100).waitFor()
        const shown = await page.evaluate<number>('new Promise((resolve) => requestAnimationFrame(() => resolve(performance.now())))')
        painted.push(await page.evaluate<number>("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        await page.getByText(`${manyRuns} of ${manyRuns} runs`).waitFor({ timeout: 120_000 })
        await page.context().close()
        return shown
      },
    })
    return { name: 'first-paint', series: { ours, firstContent: painted.slice(1) } }
  } finally {
    await browser.close()
    server.close()
  }
}

const digits = (count: number) => '0'.repeat(count)
