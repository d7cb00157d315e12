import type { HeldOutPoint } from '../domain/run/state.ts'
import { filesOf, type Run, readState } from '../store/runs.ts'
import { TrainerRecord } from '../store/trainer-record.ts'
import { type Column, csvText, parquetBytes } from '../trackers/tables.ts'

export type CurveFormat = 'csv' | 'parquet'

/**
 * Every measurement of a run as a table: a row a step, steps that were done again among them and marked; held-out losses in the row of
 * the step they were measured after.
 */
export async function exportCurves(run: Run, format: CurveFormat): Promise<Uint8Array> {
  const columns = await columnsOf(run)
  return format === 'csv' ? Buffer.from(csvText(columns)) : parquetBytes(columns)
}

async function columnsOf(run: Run): Promise<Column[]> {
  const record = new TrainerRecord(filesOf(run.folder))
  await record.update()
  const { columns } = record
  const measured = [...columns.names].map((name): Column => ({ name, values: columns.column(name) ?? new Float64Array(columns.rows) }))
  const superseded: Column = { name: 'superseded', values: Float64Array.from(columns.superseded) }
  const steps = columns.column('step') ?? new Float64Array()
  return [...measured, superseded, ...heldOutColumns(steps, columns.superseded, readState(run).heldOut)]
}

function heldOutColumns(steps: Float64Array, superseded: Uint8Array, points: readonly HeldOutPoint[]): Column[] {
  const byStep = new Map(points.map((point) => [point.step, point]))
  const column = (name: string, value: (point: HeldOutPoint) => number | null | undefined): Column => ({
    name,
    values: steps.map((step, row) => {
      const point = superseded[row] ? undefined : byStep.get(step)
      return (point && value(point)) ?? Number.NaN
    }),
  })
  return [column('heldOut.raw', ({ raw }) => raw.loss), column('heldOut.ema', ({ ema }) => ema?.loss)]
}
