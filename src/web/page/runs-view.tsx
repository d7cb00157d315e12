import { useMemo, useState } from 'preact/hooks'
import type { RunSummary } from '../../runs/watch/summary.ts'
import type { RunList } from '../../runs/watch/watched-runs.ts'
import { Scroll } from './scroll.tsx'
import { useAnswer, useClock } from './state.ts'
import { brief, duration, moment, toneOf } from './words.ts'

const refreshMs = 2000
/** Rows shown before somebody asks for all. */
const firstRows = 200
const mostCompared = 10

const columns = [
  ['Run', ({ id }) => id],
  ['State', ({ standing }) => standing],
  ['Progress', ({ step, steps }) => step / Math.max(1, steps)],
  ['Held-out', ({ heldOutLoss }) => heldOutLoss ?? Number.POSITIVE_INFINITY],
  ['Learning rate', ({ learningRate }) => learningRate ?? -1],
  ['Duration', (run) => secondsOf(run) ?? -1],
  ['From', ({ parent }) => parent?.run ?? ''],
] as const satisfies readonly (readonly [string, (run: RunSummary) => string | number])[]

/** Every run, searchable, with what it came from. */
export function RunsView() {
  const { value, error } = useAnswer<RunList>('/api/runs', useClock(refreshMs))
  const [search, setSearch] = useState('')
  const [order, setOrder] = useState<{ column: number; isRising: boolean } | undefined>(undefined)
  const [isGrouped, setGrouped] = useState(true)
  const [showsAll, setShowsAll] = useState(false)
  const [chosen, setChosen] = useState<readonly string[]>([])
  const runs = useMemo(() => sorted(found(value?.runs ?? [], search), order), [value, search, order])
  const groups = groupsOf(runs.slice(0, showsAll ? runs.length : firstRows), isGrouped && !order ? (value?.groups ?? {}) : {})
  const toggle = (id: string) =>
    setChosen((before) => (before.includes(id) ? before.filter((other) => other !== id) : [...before, id].slice(-mostCompared)))
  return (
    <main>
      <h1>Runs</h1>
      <div class="bar">
        <label>
          Search <input type="search" value={search} onInput={({ currentTarget }) => setSearch(currentTarget.value)} />
        </label>
        <label>
          <input type="checkbox" checked={isGrouped} onChange={() => setGrouped(!isGrouped)} /> grouped
        </label>
        <button
          type="button"
          disabled={chosen.length < 2}
          onClick={() => {
            location.hash = `#/compare/${chosen.join(',')}`
          }}
        >
          Compare {chosen.length > 0 ? chosen.length : ''}
        </button>
        <span class="note" role="status">
          {error ?? `${runs.length} of ${value?.runs.length ?? 0} runs${value?.pending ? `, ${value.pending} being read` : ''}`}
        </span>
      </div>
      <Scroll label="Table of runs">
        <table class="runs">
          <thead>
            <tr>
              <th>
                <span class="hidden">Compare</span>
              </th>
              {columns.map(([name], column) => (
                <th key={name} aria-sort={order?.column === column ? (order.isRising ? 'ascending' : 'descending') : 'none'}>
                  <button type="button" class="plain" onClick={() => setOrder(nextOrder(order, column))}>
                    {name}
                    {order?.column === column ? (order.isRising ? ' ▲' : ' ▼') : ''}
                  </button>
                </th>
              ))}
            </tr>
          </thead>
          {groups.map(({ name, runs: inside }) => (
            <tbody key={name}>
              {name ? (
                <tr class="group">
                  <th colSpan={columns.length + 1} scope="rowgroup">
                    {name.startsWith('sweep ') ? <a href={`#/sweep/${name.slice('sweep '.length)}`}>{name}</a> : name}
                  </th>
                </tr>
              ) : null}
              {inside.map((run) => (
                <Row key={run.id} run={run} isChosen={chosen.includes(run.id)} onChoose={() => toggle(run.id)} />
              ))}
            </tbody>
          ))}
        </table>
      </Scroll>
      {runs.length > firstRows && !showsAll ? (
        <button type="button" onClick={() => setShowsAll(true)}>
          Show all {runs.length}
        </button>
      ) : null}
      {value && value.runs.length === 0 ? <p>No runs yet. `stagewright train RECIPE` makes one; it appears here by itself.</p> : null}
    </main>
  )
}

function Row({ run, isChosen, onChoose }: { run: RunSummary; isChosen: boolean; onChoose: () => void }) {
  const share = run.steps === 0 ? 0 : Math.min(1, run.step / run.steps)
  return (
    <tr>
      <td>
        <input type="checkbox" aria-label={`Compare ${run.id}`} checked={isChosen} onChange={onChoose} />
      </td>
      <td>
        <a href={`#/run/${run.id}`}>{run.stage}</a> <span class="note">{run.id}</span>
      </td>
      <td>
        <Standing run={run} />
      </td>
      <td class="number">
        <progress max={1} value={share} aria-label={`${run.step} of ${run.steps} steps`} /> {run.step.toLocaleString('en')}/
        {run.steps.toLocaleString('en')}
      </td>
      <td class="number">{brief(run.heldOutLoss)}</td>
      <td class="number">{brief(run.learningRate)}</td>
      <td class="number">{duration(secondsOf(run))}</td>
      <td>{run.parent ? <a href={`#/run/${run.parent.run}`}>{`${run.parent.run}@${run.parent.step}`}</a> : '–'}</td>
    </tr>
  )
}

/** The state of a run in a word, with its colour. */
export function Standing({ run }: { run: RunSummary }) {
  return (
    <span
      class={`standing ${toneOf(run.standing)}`}
      title={run.message ?? (run.lastHeardAt ? `last heard ${moment(run.lastHeardAt)}` : '')}
    >
      {run.standing}
    </span>
  )
}

/** Seconds from a run's start to its last word. */
export function secondsOf({ startedAt, lastHeardAt }: RunSummary): number | null {
  return startedAt === null || lastHeardAt === null ? null : lastHeardAt - startedAt
}

function found(runs: readonly RunSummary[], search: string): readonly RunSummary[] {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean)
  const textOf = ({ id, stage, standing, kind, parent, recipe }: RunSummary) =>
    [id, stage, standing, kind, parent?.run, recipe?.file].join(' ').toLowerCase()
  return runs.filter((run) => words.every((word) => textOf(run).includes(word)))
}

function nextOrder(order: { column: number; isRising: boolean } | undefined, column: number) {
  if (order?.column !== column) return { column, isRising: true }
  return order.isRising ? { column, isRising: false } : undefined
}

function sorted(runs: readonly RunSummary[], order: { column: number; isRising: boolean } | undefined): readonly RunSummary[] {
  const key = columns[order?.column ?? -1]?.[1]
  if (!order || !key) return runs
  const sign = order.isRising ? 1 : -1
  return runs.toSorted((a, b) => (key(a) < key(b) ? -sign : key(a) > key(b) ? sign : 0))
}

/** Runs of one chain or sweep stand together, where the newest of them would; the others stand alone. */
function groupsOf(runs: readonly RunSummary[], groups: Readonly<Record<string, string>>): { name: string; runs: RunSummary[] }[] {
  const made: { name: string; runs: RunSummary[] }[] = []
  for (const run of runs) {
    const name = groups[run.id] ?? ''
    const known = name === '' ? made.at(-1) : made.find((group) => group.name === name)
    if (known && known.name === name) known.runs.push(run)
    else made.push({ name, runs: [run] })
  }
  return made
}
