import { render } from 'preact'
import './main.css'
import { CompareView } from './compare-view.tsx'
import { RunView } from './run-view.tsx'
import { RunsView } from './runs-view.tsx'
import { isReport, takeToken } from './source.ts'
import { useAnswer, useRoute } from './state.ts'
import { SweepPage } from './sweep-view.tsx'

interface Session {
  readonly role: 'control' | 'read'
  readonly runsFolder: string
  /** In a report: the run it is about. */
  readonly run?: string
}

function Page() {
  const { value: session, error } = useAnswer<Session>('/api/session')
  const route = useRoute()
  if (error)
    return (
      <main>
        <h1>Stagewright</h1>
        <p role="alert">{error}</p>
      </main>
    )
  if (!session) return null
  return (
    <>
      <header>
        <a class="home" href={isReport ? `#/run/${session.run}` : '#/'}>
          Stagewright
        </a>{' '}
        <span class="note" title={session.runsFolder}>
          {isReport ? 'report' : session.runsFolder.split('/').at(-1)}
          {session.role === 'read' && !isReport ? ' · read only' : ''}
        </span>
      </header>
      <View route={route} session={session} />
    </>
  )
}

function View({ route: [view, id, tab], session }: { route: readonly string[]; session: Session }) {
  if (isReport) return <RunView id={session.run ?? ''} tab={tab} mayControl={false} />
  if (view === 'run' && id) return <RunView key={id} id={id} tab={tab} mayControl={session.role === 'control'} />
  if (view === 'sweep' && id) return <SweepPage key={id} id={id} />
  if (view === 'compare' && id) return <CompareView key={id} ids={id.split(',').slice(0, 10)} />
  return <RunsView />
}

takeToken()
render(<Page />, document.getElementById('app') as HTMLElement)
