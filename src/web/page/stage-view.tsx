import { useState } from 'preact/hooks'
import type { Origin } from '../../domain/stage/origin.ts'
import type { SettingLine } from '../../runs/watch/stage-view.ts'
import { DiffView } from './diff-view.tsx'
import { Scroll } from './scroll.tsx'
import { useAnswer } from './state.ts'
import { valueText } from './words.ts'

/** The complete stage of a run with where each value comes from, and its difference to others. */
export function StageView({ id, parent }: { id: string; parent: { run: string; step: number } | null }) {
  const { value, error } = useAnswer<{ settings: readonly SettingLine[] }>(`/api/runs/${id}/stage`)
  const [search, setSearch] = useState('')
  const [onlyChosen, setOnlyChosen] = useState(true)
  const [against, setAgainst] = useState(parent ? `${parent.run}@${parent.step}` : 'defaults')
  const [written, setWritten] = useState(against)
  const lines = (value?.settings ?? []).filter(
    ({ path, origin, value: now, default: usual }) =>
      path.toLowerCase().includes(search.toLowerCase()) &&
      (!onlyChosen || (origin.layer !== 'schema default' && JSON.stringify(now) !== JSON.stringify(usual))),
  )
  return (
    <>
      <section>
        <h2>Difference</h2>
        <form
          class="bar"
          onSubmit={(event) => {
            event.preventDefault()
            setAgainst(written)
          }}
        >
          <label>
            from <input value={written} onInput={({ currentTarget }) => setWritten(currentTarget.value)} size={34} />
          </label>
          <button type="submit">Show</button>
          {parent ? (
            <button type="button" onClick={() => [setWritten, setAgainst].map((set) => set(`${parent.run}@${parent.step}`))}>
              parent
            </button>
          ) : null}
          <button type="button" onClick={() => [setWritten, setAgainst].map((set) => set('defaults'))}>
            defaults
          </button>
          <span class="note">a run, RUN@STEP, v1.3/STAGE of upstream, or defaults</span>
        </form>
        <DiffView a={against} b={id} />
      </section>
      <section>
        <h2>Settings</h2>
        <div class="bar">
          <label>
            Search <input type="search" value={search} onInput={({ currentTarget }) => setSearch(currentTarget.value)} />
          </label>
          <label>
            <input type="checkbox" checked={onlyChosen} onChange={() => setOnlyChosen(!onlyChosen)} /> only what differs from the default
          </label>
          <span class="note" role="status">
            {error ?? `${lines.length} of ${value?.settings.length ?? 0} settings`}
          </span>
        </div>
        <Scroll label="Settings of this run">
          <table>
            <thead>
              <tr>
                <th>setting</th>
                <th>value</th>
                <th>from</th>
                <th>group</th>
                <th>changing it costs</th>
                <th>meaning</th>
              </tr>
            </thead>
            <tbody>
              {lines.map((line) => (
                <tr key={line.path}>
                  <th scope="row">{line.path}</th>
                  <td>
                    {valueText(line.value)} {line.unit ? <span class="unit">{line.unit}</span> : null}
                  </td>
                  <td>{originText(line.origin)}</td>
                  <td>{line.group}</td>
                  <td>{line.impact}</td>
                  <td>{line.meaning}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      </section>
    </>
  )
}

function originText({ layer, file, line, name }: Origin): string {
  const place = file ? ` ${file.split('/').slice(-2).join('/')}${line === undefined ? '' : `:${line}`}` : ''
  return `${layer}${place}${name ? ` ${name}` : ''}`
}
