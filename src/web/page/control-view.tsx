import { useEffect, useRef, useState } from 'preact/hooks'
import type { HandOff } from '../../runs/hand-off.ts'
import type { RunDetails } from '../../runs/watch/details.ts'
import type { SettingLine } from '../../runs/watch/stage-view.ts'
import { isLive } from '../../runs/watch/summary.ts'
import type { Action, Done } from '../control.ts'
import { get, post } from './source.ts'
import { errorText, useAnswer } from './state.ts'
import { valueText } from './words.ts'

const effects: Record<Action['name'], string> = {
  set: 'It takes effect at the next step on all ranks, is journaled, and is made again when the run is continued.',
  stop: 'The run ends at the next step, with a checkpoint.',
  pause: 'A checkpoint is written at the next step and the device is freed. Continue goes on from there.',
  checkpoint: 'A checkpoint is written at the next step; training goes on.',
  sample: 'Sample videos are written at the next step; training goes on.',
  continue: 'The run goes on from its newest checkpoint.',
}

/** What can be asked of a run; each action is confirmed after what it does has been read. */
export function ControlView({ id, details }: { id: string; details: RunDetails }) {
  const [action, setAction] = useState<Action | undefined>(undefined)
  const [outcome, setOutcome] = useState('')
  const isTraining = isLive(details.summary.standing)
  const simple = isTraining ? (['pause', 'stop', 'checkpoint', 'sample'] as const) : (['continue'] as const)
  return (
    <>
      <div class="bar">
        {simple.map((name) => (
          <button key={name} type="button" onClick={() => setAction({ name } as Action)}>
            {name}
          </button>
        ))}
      </div>
      {isTraining ? <SetForm id={id} onSet={setAction} /> : <p class="note">Settings can be changed while a run trains.</p>}
      <p role="status">{outcome}</p>
      {action ? (
        <Confirmation
          id={id}
          action={action}
          onClose={(text) => {
            setAction(undefined)
            if (text) setOutcome(text)
          }}
        />
      ) : null}
    </>
  )
}

function SetForm({ id, onSet }: { id: string; onSet: (action: Action) => void }) {
  const { value } = useAnswer<{ settings: readonly SettingLine[] }>(`/api/runs/${id}/stage`)
  const live = (value?.settings ?? []).filter(({ impact }) => impact === 'live')
  const [path, setPath] = useState('learningRate')
  const [text, setText] = useState('')
  const [reason, setReason] = useState('')
  const chosen = live.find((line) => line.path === path)
  return (
    <form
      class="set"
      onSubmit={(event) => {
        event.preventDefault()
        onSet({ name: 'set', path, value: parsed(text), reason: reason || null })
      }}
    >
      <h2>Change a setting</h2>
      <label>
        setting{' '}
        <select value={path} onChange={({ currentTarget }) => setPath(currentTarget.value)}>
          {live.map((line) => (
            <option key={line.path} value={line.path}>
              {line.path}
            </option>
          ))}
        </select>
      </label>
      <label>
        new value{' '}
        <input
          required
          value={text}
          placeholder="5e-6, or *0.5 to multiply"
          onInput={({ currentTarget }) => setText(currentTarget.value)}
        />
      </label>
      <label>
        reason, for the journal <input value={reason} onInput={({ currentTarget }) => setReason(currentTarget.value)} />
      </label>
      <button type="submit">set</button>
      {chosen ? (
        <p class="note">
          now {valueText(chosen.value)} {chosen.unit ?? ''}: {chosen.meaning}
        </p>
      ) : null}
    </form>
  )
}

/** JSON where it is some, else the text (`*0.5`, a name). */
function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}

function Confirmation({ id, action, onClose }: { id: string; action: Action; onClose: (outcome: string) => void }) {
  const dialog = useRef<HTMLDialogElement>(null)
  const [handOff, setHandOff] = useState<HandOff | null>(null)
  const [isWaiting, setWaiting] = useState(false)
  const [problem, setProblem] = useState('')
  useEffect(() => {
    dialog.current?.showModal()
    get<{ handOff: HandOff | null }>(`/api/runs/${id}/hand-off?name=${action.name}`).then(
      (answer) => setHandOff(answer.handOff),
      () => setHandOff(null),
    )
  }, [id, action])
  const confirm = () => {
    setWaiting(true)
    post<Done>(`/api/runs/${id}/control`, action).then(
      (done) => onClose(doneText(action, done)),
      (cause: unknown) => {
        setWaiting(false)
        setProblem(errorText(cause))
      },
    )
  }
  return (
    <dialog ref={dialog} aria-labelledby="confirm-title" onClose={() => onClose('')}>
      <h2 id="confirm-title">{action.name === 'set' ? `Set ${action.path} to ${valueText(action.value)}` : `${action.name} ${id}`}?</h2>
      <p>{effects[action.name]}</p>
      {handOff ? <HandOffText {...handOff} /> : null}
      {problem ? <p role="alert">{problem}</p> : null}
      <div class="bar">
        <button type="button" class="primary" disabled={isWaiting} onClick={confirm}>
          {isWaiting ? 'waiting for the next step…' : action.name}
        </button>
        <button type="button" onClick={() => dialog.current?.close()}>
          leave it
        </button>
      </div>
    </dialog>
  )
}

function HandOffText({ verb, from, carried, rebuilt, reset }: HandOff) {
  const rows = [
    ['carried', carried],
    ['rebuilt', rebuilt],
    ['reset', reset],
  ] as const
  return (
    <>
      <p>
        What {verb} from {from} takes along:
      </p>
      <dl class="hand-off">
        {rows
          .filter(([, parts]) => parts.length > 0)
          .map(([name, parts]) => (
            <div key={name}>
              <dt>{name}</dt>
              <dd>{parts.join(', ')}</dd>
            </div>
          ))}
      </dl>
    </>
  )
}

function doneText(action: Action, { step, effective, handOff }: Done): string {
  if (handOff) return `continues from ${handOff.from}`
  if (action.name === 'set') return `${action.path} is ${JSON.stringify(effective)} from step ${step} on`
  return step === null ? `${action.name}: asked for` : `${action.name} before step ${step}`
}
