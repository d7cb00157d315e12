import { useEffect, useRef, useState } from 'preact/hooks'
import type { Sample } from '../../runs/watch/details.ts'
import { Scroll } from './scroll.tsx'
import { sampleUrl } from './source.ts'
import { errorText } from './state.ts'

/** Milliseconds of one pass through all videos. */
const passMs = 2000

/** Fixed prompts against steps: a grid of short videos that one scrubber moves. */
export function SamplesView({ id, samples }: { id: string; samples: readonly Sample[] }) {
  const scrubber = useScrubber()
  if (samples.length === 0) return <p>No samples yet. The setting samples.everySteps makes them while it trains.</p>
  const prompts = [...new Set(samples.map(({ prompt }) => prompt))]
  const steps = [...new Set(samples.map(({ step }) => step))].sort((a, b) => a - b)
  return (
    <>
      <ScrubberBar {...scrubber} />
      <SampleGrid
        label="Samples by prompt and step"
        prompts={prompts}
        columns={steps.map((step) => ({
          key: String(step),
          title: `step ${step.toLocaleString('en')}`,
          run: id,
          sampleOf: (prompt) => samples.findLast((each) => each.prompt === prompt && each.step === step),
        }))}
        at={scrubber.at}
      />
    </>
  )
}

interface SampleColumn {
  readonly key: string
  readonly title: string
  readonly run: string
  readonly sampleOf: (prompt: string) => Sample | undefined
}

interface SampleGridProps {
  readonly label: string
  readonly prompts: readonly string[]
  readonly columns: readonly SampleColumn[]
  readonly at: number
}

/** A row for each prompt: its video in every column, a dash where there is none. */
export function SampleGrid({ label, prompts, columns, at }: SampleGridProps) {
  return (
    <Scroll label={label}>
      <table class="samples">
        <thead>
          <tr>
            <th>prompt</th>
            {columns.map(({ key, title }) => (
              <th key={key}>{title}</th>
            ))}
          </tr>
        </thead>
        <tbody>
          {prompts.map((prompt) => (
            <tr key={prompt}>
              <th scope="row">{prompt}</th>
              {columns.map(({ key, title, run, sampleOf }) => {
                const sample = sampleOf(prompt)
                const path = `/api/runs/${run}/samples/${sample?.index}`
                return <td key={key}>{sample ? <SampleVideo path={path} label={`${prompt}, ${title}`} at={at} /> : '–'}</td>
              })}
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  )
}

export interface Scrubber {
  /** Place in every video, from 0 to 1. */
  readonly at: number
  readonly isPlaying: boolean
  readonly onAt: (at: number) => void
  readonly onPlay: () => void
}

export function useScrubber(): Scrubber {
  const [at, setAt] = useState(0)
  const [isPlaying, setPlaying] = useState(false)
  useEffect(() => {
    if (!isPlaying) return
    let frame = 0
    let last = performance.now()
    const move = (now: number) => {
      const passed = (now - last) / passMs
      last = now
      setAt((before) => (before + passed) % 1)
      frame = requestAnimationFrame(move)
    }
    frame = requestAnimationFrame(move)
    return () => cancelAnimationFrame(frame)
  }, [isPlaying])
  return { at, isPlaying, onAt: setAt, onPlay: () => setPlaying(!isPlaying) }
}

export function ScrubberBar({ at, isPlaying, onAt, onPlay }: Scrubber) {
  return (
    <div class="bar">
      <button type="button" onClick={onPlay}>
        {isPlaying ? 'Pause videos' : 'Play videos'}
      </button>
      <label class="wide">
        place in all videos{' '}
        <input type="range" min="0" max="1" step="0.001" value={at} onInput={({ currentTarget }) => onAt(Number(currentTarget.value))} />
      </label>
    </div>
  )
}

/** A video that is loaded once it comes into view, and stands where the scrubber says. */
function SampleVideo({ path, label, at }: { path: string; label: string; at: number }) {
  const video = useRef<HTMLVideoElement>(null)
  const [url, setUrl] = useState<string | undefined>(undefined)
  const [error, setError] = useState<string | undefined>(undefined)
  useEffect(() => {
    const element = video.current
    if (!element) return
    let made: string | undefined
    const observer = new IntersectionObserver((entries) => {
      if (!entries.some(({ isIntersecting }) => isIntersecting)) return
      observer.disconnect()
      sampleUrl(path).then(
        (address) => {
          made = address
          setUrl(address)
        },
        (cause: unknown) => setError(errorText(cause)),
      )
    })
    observer.observe(element)
    return () => {
      observer.disconnect()
      if (made?.startsWith('blob:')) URL.revokeObjectURL(made)
    }
  }, [path])
  const seek = () => {
    const element = video.current
    if (element && Number.isFinite(element.duration))
      element.currentTime = Math.min(at * element.duration, Math.max(0, element.duration - 0.01))
  }
  useEffect(seek, [at, url])
  if (error) return <span role="alert">{error}</span>
  return <video ref={video} src={url} muted playsInline preload="auto" aria-label={label} onLoadedMetadata={seek} />
}
