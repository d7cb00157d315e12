import { closeSync, mkdirSync, openSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import type { MetricColumns } from '../../../src/domain/metrics/columns.ts'
import { curveOf } from '../../../src/domain/metrics/m4.ts'
import { filesOf } from '../../../src/store/runs.ts'
import { TrainerRecord } from '../../../src/store/trainer-record.ts'
import { journalLines } from '../../../test/store/made-journal.ts'
import type { Group } from '../group.ts'
import { inTurns } from '../turns.ts'
import { measureWatching, watchingBenchmarks } from '../watching.ts'

const steps = 1_000_000
const widest = 10_000_000
const pixels = 1000
const linesAtOnce = 20_000

/** What a page costs the server: reading a journal of a million steps, reading it again, and reducing a curve to a screen. */
export const group: Group = {
  benchmarks: [
    {
      name: 'ingest',
      what: `a journal of ${steps.toLocaleString('en')} steps read from nothing: numbers in its lines`,
      figure: 'value',
      unit: 'scalars/s',
      goal: { at: 'least', value: 500_000 },
    },
    {
      name: 'first-curve',
      what: 'the same journal to its first curve, nothing kept of it yet',
      figure: 'value',
      unit: 'ms',
      goal: { at: 'most', value: 5000 },
    },
    {
      name: 'first-curve-kept',
      what: 'the same from the columns kept under derived/',
      figure: 'value',
      unit: 'ms',
      goal: { at: 'most', value: 1000 },
    },
    {
      name: 'view',
      what: `a curve of ${widest.toLocaleString('en')} points reduced to ${pixels} columns of pixels`,
      figure: 'value',
      unit: 'ms',
      goal: { at: 'most', value: 50 },
    },
    ...watchingBenchmarks,
  ],
  async *measure(bench) {
    const run = join(bench.scratch, 'monitor')
    writeMade(run)
    const rounds = bench.rounds(5)
    const fresh: number[] = []
    const scalars = scalarsIn(await firstCurve(run))
    const { anew = [], kept = [] } = await inTurns(rounds, {
      anew: async () => {
        rmSync(join(run, 'derived'), { recursive: true, force: true })
        const began = performance.now()
        await firstCurve(run)
        return performance.now() - began
      },
      kept: async () => {
        const began = performance.now()
        await firstCurve(run)
        return performance.now() - began
      },
    })
    for (const ms of anew) fresh.push((scalars / ms) * 1000)
    yield { name: 'ingest', series: { ours: fresh }, note: `${scalars.toLocaleString('en')} numbers` }
    yield { name: 'first-curve', series: { ours: anew } }
    yield { name: 'first-curve-kept', series: { ours: kept } }
    const [x, y] = [Float64Array.from({ length: widest }, (_, at) => at), Float64Array.from({ length: widest }, (_, at) => Math.sin(at))]
    const { ours = [] } = await inTurns(rounds, {
      ours: () => {
        const began = performance.now()
        curveOf(x, y, undefined, { from: 0, to: widest, width: pixels })
        return performance.now() - began
      },
    })
    yield { name: 'view', series: { ours } }
    yield* measureWatching(bench)
  },
}

/** Reads a run and draws its loss. */
async function firstCurve(run: string): Promise<MetricColumns> {
  const record = new TrainerRecord(filesOf(run))
  await record.update()
  const { columns } = record
  const [x, y] = [columns.column('step'), columns.column('loss')]
  if (!x || !y || columns.rows < steps) throw new Error('the journal was not read whole')
  curveOf(x, y, columns.kept, { from: 0, to: steps, width: pixels })
  return columns
}

/** How many numbers the rows hold. */
function scalarsIn(columns: MetricColumns): number {
  return columns.names.reduce((sum, name) => sum + count(columns.column(name)), 0)
}

function count(values: Float64Array = new Float64Array()): number {
  let numbers = 0
  for (const value of values) if (!Number.isNaN(value)) numbers += 1
  return numbers
}

function writeMade(run: string): void {
  mkdirSync(run, { recursive: true })
  const file = openSync(join(run, 'trainer.jsonl'), 'w')
  const lines = journalLines({ steps })
  for (let line = 0; line < lines.length; line += linesAtOnce) writeSync(file, lines.slice(line, line + linesAtOnce).join(''))
  closeSync(file)
}
