import { parquetWriteBuffer } from 'hyparquet-writer'

/** A column of numbers; one that is missing is not a number. All columns of a table are of one length. */
export interface Column {
  readonly name: string
  readonly values: Float64Array
}

/** A table as comma-separated values (RFC 4180), numbers as short as they are exact; what is missing is empty. */
export function csvText(columns: readonly Column[]): string {
  const rows = columns[0]?.values.length ?? 0
  const lines = [columns.map(({ name }) => cell(name)).join(',')]
  for (let row = 0; row < rows; row += 1) lines.push(columns.map(({ values }) => numberText(values[row])).join(','))
  return `${lines.join('\r\n')}\r\n`
}

function cell(text: string): string {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
}

function numberText(value: number | undefined): string {
  return value === undefined || Number.isNaN(value) ? '' : String(value)
}

/** A table as Parquet, every column a nullable double. */
export function parquetBytes(columns: readonly Column[]): Uint8Array {
  const columnData = columns.map(({ name, values }) => ({
    name,
    data: Array.from(values, (value) => (Number.isNaN(value) ? null : value)),
    type: 'DOUBLE' as const,
    nullable: true,
  }))
  return new Uint8Array(parquetWriteBuffer({ columnData }))
}
