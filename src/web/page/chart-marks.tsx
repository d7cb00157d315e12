import { useRef, useState } from 'preact/hooks'
import type { Mark } from '../../runs/watch/details.ts'
import { groupedMarks, type MarkGroup, markLabel, signOf } from './marks.ts'

const mostTold = 12

interface ChartMarksProps {
  readonly title: string
  readonly marks: readonly Mark[]
  readonly from: number
  readonly to: number
  /** Pixels from the chart's left edge to its curves, and how wide these are. */
  readonly frame: { readonly left: number; readonly width: number }
  /** Shows the stretch around what a sign stands for. */
  readonly onShow: (first: number, last: number) => void
}

/** Signs above the curves for what happened: one stop of the tab key for all of them, arrows go from one to the next. */
export function ChartMarks({ title, marks, from, to, frame, onShow }: ChartMarksProps) {
  const groups = groupedMarks(marks, { from, to }, frame.width)
  const list = useRef<HTMLDivElement>(null)
  const [current, setCurrent] = useState(0)
  const [open, setOpen] = useState<Mark | undefined>(undefined)
  if (groups.length === 0 || frame.width === 0) return null
  const reached = Math.min(current, groups.length - 1)
  const goTo = (place: number) => {
    setCurrent(place)
    ;(list.current?.children[place] as HTMLElement | undefined)?.focus()
  }
  const shown = groups.find((group) => open && group.marks.includes(open))
  return (
    <>
      <div
        ref={list}
        class="signs"
        role="toolbar"
        aria-label={`What happened, on ${title}`}
        style={{ left: `${frame.left}px`, width: `${frame.width}px` }}
        onKeyDown={(event) => {
          const place = keyPlace(event.key, reached, groups.length)
          if (event.key === 'Escape') setOpen(undefined)
          if (place === undefined) return
          event.preventDefault()
          goTo(place)
        }}
      >
        {groups.map((group, place) => (
          <button
            key={`${group.left}`}
            type="button"
            class={`sign ${group.kind}`}
            style={{ left: `${group.left}px` }}
            tabIndex={place === reached ? 0 : -1}
            title={markLabel(group)}
            aria-label={markLabel(group)}
            aria-expanded={group === shown}
            onClick={() => {
              setCurrent(place)
              setOpen(group === shown ? undefined : group.marks[0])
            }}
          >
            {group.marks.length > 1 ? group.marks.length : signOf(group.kind).sign}
          </button>
        ))}
      </div>
      {shown ? (
        <MarkCard
          group={shown}
          onShow={onShow}
          onClose={() => {
            setOpen(undefined)
            goTo(groups.indexOf(shown))
          }}
        />
      ) : null}
    </>
  )
}

/** The sign a key leads to; undefined for other keys. */
function keyPlace(key: string, place: number, count: number): number | undefined {
  if (key === 'ArrowRight') return Math.min(count - 1, place + 1)
  if (key === 'ArrowLeft') return Math.max(0, place - 1)
  if (key === 'Home') return 0
  return key === 'End' ? count - 1 : undefined
}

function MarkCard({ group, onShow, onClose }: { group: MarkGroup; onShow: ChartMarksProps['onShow']; onClose: () => void }) {
  const { marks } = group
  const places = marks.map(({ at }) => at as number)
  return (
    <div class="card" role="status">
      <ul>
        {marks.slice(0, mostTold).map((mark, place) => (
          <li key={place}>
            <strong class={`word ${mark.kind}`}>{signOf(mark.kind).word}</strong> step {mark.step.toLocaleString('en')}: {mark.text}
          </li>
        ))}
        {marks.length > mostTold ? <li>and {marks.length - mostTold} more</li> : null}
      </ul>
      <div class="bar">
        <button type="button" onClick={() => onShow(Math.min(...places), Math.max(...places))}>
          Look closer
        </button>
        <button type="button" onClick={onClose}>
          Close
        </button>
      </div>
    </div>
  )
}
