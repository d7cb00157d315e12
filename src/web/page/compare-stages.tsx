import { useEffect, useState } from 'preact/hooks'
import type { StageDiff } from '../../domain/diff/stage-diff.ts'
import { type Differing, differing, follows } from './differing.ts'
import { Scroll } from './scroll.tsx'
import { get } from './source.ts'
import { errorText } from './state.ts'
import { valueText } from './words.ts'

/** Of a long value only its beginning is shown, for the table to stay one. */
const mostLetters = 60

/** What differs in the stages of some runs: a row for each setting, a column for each run; what differs from the first is marked. */
export function CompareStages({ ids, names }: { ids: readonly string[]; names: readonly string[] }) {
  const { diffs, error } = useDiffs(ids)
  if (error) return <p role="alert">{error}</p>
  if (!diffs) return <p>Comparing…</p>
  const rows = differing(diffs)
  const settings = rows.filter(({ group }) => group !== follows).length
  const findings = diffs.flatMap(({ findings: found }, place) => found.map((finding) => ({ ...finding, place: place + 1 })))
  return (
    <>
      <p>{settings === 0 ? 'no setting differs' : `${settings} ${settings === 1 ? 'setting differs' : 'settings differ'}`}</p>
      {rows.length === 0 ? null : (
        <Scroll label="Settings that differ">
          <table class="matrix">
            <thead>
              <tr>
                <th>setting</th>
                {ids.map((id, place) => (
                  <th key={id}>
                    <span class="swatch" style={{ background: `var(--run-${place + 1})` }} /> {names[place] ?? id}
                  </th>
                ))}
                <th>changing it costs</th>
              </tr>
            </thead>
            {[...new Set(rows.map(({ group }) => group))].map((group) => (
              <tbody key={group}>
                <tr class="group">
                  <th colSpan={ids.length + 2} scope="rowgroup">
                    {group}
                  </th>
                </tr>
                {rows
                  .filter((row) => row.group === group)
                  .map((row) => (
                    <Row key={row.name} {...row} />
                  ))}
              </tbody>
            ))}
          </table>
        </Scroll>
      )}
      {findings.length > 0 ? (
        <ul>
          {findings.map(({ rule, severity, message, hint, place }) => (
            <li key={`${place} ${rule} ${message}`}>
              <strong>{severity}</strong> {names[place] ?? ids[place]}: {message} <span class="note">{hint}</span>
            </li>
          ))}
        </ul>
      ) : null}
    </>
  )
}

function Row({ name, values, costs }: Differing) {
  const [first] = values
  return (
    <tr>
      <th scope="row">{name}</th>
      {values.map((value, place) => (
        <td key={place} title={valueText(value)}>
          {valueText(value) === valueText(first) ? shortened(value) : <strong>{shortened(value)}</strong>}
        </td>
      ))}
      <td>{costs}</td>
    </tr>
  )
}

function shortened(value: unknown): string {
  const text = valueText(value)
  return text.length > mostLetters ? `${text.slice(0, mostLetters)}…` : text
}

function useDiffs(ids: readonly string[]) {
  const [state, setState] = useState<{ diffs?: readonly StageDiff[]; error?: string }>({})
  const key = ids.join(',')
  useEffect(() => {
    const leaving = new AbortController()
    const [first = '', ...others] = key.split(',')
    const read = (id: string) => get<StageDiff>(`/api/diff?a=${encodeURIComponent(first)}&b=${encodeURIComponent(id)}`, leaving.signal)
    Promise.all(others.map(read)).then(
      (diffs) => setState({ diffs }),
      (cause: unknown) => {
        if (!leaving.signal.aborted) setState({ error: errorText(cause) })
      },
    )
    return () => leaving.abort()
  }, [key])
  return state
}
