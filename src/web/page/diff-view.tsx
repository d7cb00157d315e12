import type { StageDiff } from '../../domain/diff/stage-diff.ts'
import { Scroll } from './scroll.tsx'
import { useAnswer } from './state.ts'
import { valueText } from './words.ts'

/** What changed from one stage to another, by meaning, with what to look at. */
export function DiffView({ a, b }: { a: string; b: string }) {
  const { value, error } = useAnswer<StageDiff>(`/api/diff?a=${encodeURIComponent(a)}&b=${encodeURIComponent(b)}`)
  if (error) return <p role="alert">{error}</p>
  if (!value) return <p>Comparing…</p>
  const { changes, findings, derived } = value
  const groups = [...new Set(changes.map(({ group }) => group))]
  return (
    <>
      <p>
        {a} → {b}:{' '}
        {changes.length === 0 ? 'no setting differs' : `${changes.length} ${changes.length === 1 ? 'setting differs' : 'settings differ'}`}
      </p>
      {changes.length > 0 ? (
        <Scroll label={`Settings that differ from ${a} to ${b}`}>
          <table>
            <thead>
              <tr>
                <th>setting</th>
                <th>before</th>
                <th>after</th>
                <th>costs</th>
              </tr>
            </thead>
            {groups.map((group) => (
              <tbody key={group}>
                <tr class="group">
                  <th colSpan={4} scope="rowgroup">
                    {group}
                  </th>
                </tr>
                {changes
                  .filter((change) => change.group === group)
                  .map(({ path, before, after, impact }) => (
                    <tr key={path}>
                      <th scope="row">{path}</th>
                      <td>{valueText(before)}</td>
                      <td>{valueText(after)}</td>
                      <td>{impact}</td>
                    </tr>
                  ))}
              </tbody>
            ))}
          </table>
        </Scroll>
      ) : null}
      {derived.length > 0 ? <p class="note">what follows: {derived.map((entry) => derivedText(entry)).join(' · ')}</p> : null}
      {findings.length > 0 ? (
        <ul>
          {findings.map(({ rule, severity, message, hint }) => (
            <li key={`${rule} ${message}`}>
              <strong>{severity}</strong> {message} <span class="note">{hint}</span>
            </li>
          ))}
        </ul>
      ) : null}
    </>
  )
}

function derivedText(entry: StageDiff['derived'][number]): string {
  return `${entry.name} ${valueText(entry.before)} → ${valueText(entry.after)}`
}
