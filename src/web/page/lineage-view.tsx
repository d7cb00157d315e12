import type { RunDetails } from '../../runs/watch/details.ts'
import type { Lineage, LineageEntry } from '../../runs/watch/lineage.ts'
import { useAnswer } from './state.ts'
import { moment } from './words.ts'

/** Where a run's weights come from, what came of it, and its attempts. */
export function LineageView({ id, details }: { id: string; details: RunDetails }) {
  const { value, error } = useAnswer<Lineage>(`/api/runs/${id}/lineage`)
  if (error) return <p role="alert">{error}</p>
  return (
    <>
      <section>
        <h2>Lineage</h2>
        <Tree ancestors={value?.ancestors ?? []} lineage={value} id={id} stage={details.summary.stage} />
      </section>
      <section>
        <h2>Attempts</h2>
        <ol>
          {details.attempts.map(({ number, startedAt, engine, host, reason, message }) => (
            <li key={number}>
              {moment(startedAt)} on {host ?? engine}: {reason ? `${reason} – ${message}` : 'goes on'}
            </li>
          ))}
        </ol>
      </section>
    </>
  )
}

function Tree({
  ancestors,
  lineage,
  id,
  stage,
}: {
  ancestors: readonly LineageEntry[]
  lineage: Lineage | undefined
  id: string
  stage: string
}) {
  const [first, ...others] = ancestors
  if (first) {
    return (
      <ul class="tree">
        <li>
          <Entry entry={first} />
          <Tree ancestors={others} lineage={lineage} id={id} stage={stage} />
        </li>
      </ul>
    )
  }
  return (
    <ul class="tree">
      <li>
        <strong>{stage}</strong> <span class="note">{id}, this run</span>
        <Children parent={id} lineage={lineage} />
      </li>
    </ul>
  )
}

function Children({ parent, lineage }: { parent: string; lineage: Lineage | undefined }) {
  const children = (lineage?.descendants ?? []).filter((entry) => entry.parent === parent)
  if (children.length === 0) return null
  return (
    <ul class="tree">
      {children.map((entry) => (
        <li key={entry.id}>
          <Entry entry={entry} />
          <Children parent={entry.id} lineage={lineage} />
        </li>
      ))}
    </ul>
  )
}

function Entry({ entry: { id, stage, standing, fromStep, use } }: { entry: LineageEntry }) {
  return (
    <>
      <a href={`#/run/${id}`}>{stage || id}</a>{' '}
      <span class="note">
        {id}, {standing}
        {fromStep === null ? '' : `, handed on at step ${fromStep} (${use})`}
      </span>
    </>
  )
}
