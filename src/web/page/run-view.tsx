import { useEffect, useRef, useState } from 'preact/hooks'
import type { RunDetails } from '../../runs/watch/details.ts'
import { isLive } from '../../runs/watch/summary.ts'
import type { LiveMessage } from '../live.ts'
import { ControlView } from './control-view.tsx'
import { CurvesView } from './curves-view.tsx'
import { LineageView } from './lineage-view.tsx'
import { Standing, secondsOf } from './runs-view.tsx'
import { SamplesView } from './samples-view.tsx'
import { AnswerError, followRun, isReport } from './source.ts'
import { StageView } from './stage-view.tsx'
import { useAnswer } from './state.ts'
import { WeightsView } from './weights-view.tsx'
import { brief, duration, howMany, moment } from './words.ts'

const tabs = ['curves', 'samples', 'stage', 'weights', 'lineage', 'control'] as const
type Tab = (typeof tabs)[number]

/** One run, live. */
export function RunView({ id, tab, mayControl }: { id: string; tab: string | undefined; mayControl: boolean }) {
  const { version, isConnected, problem } = useLive(id)
  const { value: details, error } = useAnswer<RunDetails>(`/api/runs/${id}?axis=step`, version)
  const shown = (tabs as readonly string[]).includes(tab ?? '') ? (tab as Tab) : 'curves'
  if (!details) return <main>{error ? <p role="alert">{error}</p> : <p>Reading {id}…</p>}</main>
  const { summary } = details
  return (
    <main>
      <h1>
        {summary.stage} <Standing run={summary} />
        {!isReport && !isConnected ? <span class="note"> not connected, trying again…</span> : null}
      </h1>
      <p class="note">{aboutOf(id, details).join(' · ')}</p>
      {(problem ?? error) ? <p role="alert">{problem ?? error}</p> : null}
      <Facts details={details} />
      <nav aria-label="Views of this run" class="tabs">
        {tabs
          .filter((name) => name !== 'control' || mayControl)
          .map((name) => (
            <a key={name} href={`#/run/${id}/${name}`} aria-current={name === shown ? 'page' : undefined}>
              {name}
            </a>
          ))}
      </nav>
      <Shown tab={shown} id={id} details={details} version={version} />
    </main>
  )
}

function aboutOf(id: string, { device, model, data }: RunDetails): string[] {
  return [
    id,
    ...(device ? [device] : []),
    ...(model ? [`trains ${howMany(model.trainable)} of ${howMany(model.parameters)} parameters`] : []),
    ...(data ? [`${data.clips} clips, ${data.heldOut} held out`, `ends because ${data.endsBecause}`] : []),
  ]
}

function Shown({ tab, id, details, version }: { tab: Tab; id: string; details: RunDetails; version: number }) {
  switch (tab) {
    case 'curves':
      return <CurvesView id={id} details={details} version={version} />
    case 'samples':
      return <SamplesView id={id} samples={details.samples} />
    case 'stage':
      return <StageView id={id} parent={details.summary.parent} />
    case 'weights':
      return <WeightsView id={id} version={details.summary.checkpoints} />
    case 'lineage':
      return <LineageView id={id} details={details} />
    case 'control':
      return <ControlView id={id} details={details} />
    default:
      return tab satisfies never
  }
}

function Facts({ details: { summary, attempts } }: { details: RunDetails }) {
  const left = summary.secondsPerStep === null ? null : (summary.steps - summary.step) * summary.secondsPerStep
  const isOver = !isLive(summary.standing)
  const end = attempts.at(-1)
  return (
    <>
      <dl class="facts">
        <Fact name="step" value={`${summary.step.toLocaleString('en')} of ${summary.steps.toLocaleString('en')}`} />
        <Fact name="loss" value={brief(summary.loss)} />
        <Fact name="held-out" value={brief(summary.heldOutLoss)} />
        <Fact name="learning rate" value={brief(summary.learningRate)} />
        <Fact name="speed" value={summary.secondsPerStep ? `${brief(1 / summary.secondsPerStep)} steps/s` : '–'} />
        <Fact name={isOver ? 'took' : 'left'} value={duration(isOver ? secondsOf(summary) : left)} />
        <Fact name="last heard" value={summary.lastHeardAt === null ? '–' : moment(summary.lastHeardAt)} />
        <Fact name="incidents" value={String(summary.incidents)} />
      </dl>
      {summary.standing === 'waiting' ? <p>{summary.message}</p> : null}
      {end?.message ? (
        <p>
          {end.message}
          {end.reason && !['completed', 'stopped', 'paused'].includes(end.reason) && end.hint ? ` – ${end.hint}` : ''}
        </p>
      ) : null}
    </>
  )
}

function Fact({ name, value }: { name: string; value: string }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  )
}

/** Counts up when the run has gone on, no more often than the server likes; catches up when the page is seen again. */
function useLive(id: string): { version: number; isConnected: boolean; problem: string | undefined } {
  const [version, setVersion] = useState(0)
  const [isConnected, setConnected] = useState(false)
  const [problem, setProblem] = useState<string | undefined>(undefined)
  const waiting = useRef<ReturnType<typeof setTimeout> | undefined>(undefined)
  useEffect(() => {
    const leaving = new AbortController()
    let dueAt = 0
    const onMessage = ({ refreshMs }: LiveMessage) => {
      const wait = Math.max(0, dueAt - performance.now())
      waiting.current ??= setTimeout(() => {
        waiting.current = undefined
        dueAt = performance.now() + refreshMs
        setVersion((before) => before + 1)
      }, wait)
    }
    followRun(id, onMessage, setConnected, leaving.signal).catch((cause: unknown) => {
      if (cause instanceof AnswerError) setProblem(cause.message)
    })
    return () => {
      leaving.abort()
      clearTimeout(waiting.current)
      waiting.current = undefined
    }
  }, [id])
  return { version, isConnected, problem }
}
