import { useEffect, useMemo, useState } from 'preact/hooks'
import { AnswerError, get } from './source.ts'

/** What came of asking for something. */
export interface Asked<T> {
  readonly value: T | undefined
  readonly error: string | undefined
}

/** Asks for a path whenever it or `version` changes; the last answer stays until the next is there. Undefined asks for nothing. */
export function useAnswer<T>(path: string | undefined, version: unknown = 0): Asked<T> {
  const [asked, setAsked] = useState<Asked<T>>({ value: undefined, error: undefined })
  useEffect(() => {
    if (path === undefined) return
    const leaving = new AbortController()
    get<T>(path, leaving.signal).then(
      (value) => setAsked({ value, error: undefined }),
      (cause: unknown) => {
        if (!leaving.signal.aborted) setAsked(({ value }) => ({ value, error: errorText(cause) }))
      },
    )
    return () => leaving.abort()
  }, [path, version])
  return asked
}

export function errorText(cause: unknown): string {
  if (cause instanceof AnswerError) return cause.hint ? `${cause.message} – ${cause.hint}` : cause.message
  return 'the server does not answer; this page goes on when it does'
}

/** The part of the address after `#`, split at slashes. */
export function useRoute(): readonly string[] {
  const [hash, setHash] = useState(location.hash)
  useEffect(() => {
    const listener = () => setHash(location.hash)
    addEventListener('hashchange', listener)
    // It may have changed before anybody listened.
    listener()
    return () => removeEventListener('hashchange', listener)
  }, [])
  return useMemo(() => hash.replace(/^#\/?/, '').split('/').map(decoded), [hash])
}

/** Somebody may have written anything there. */
function decoded(part: string): string {
  try {
    return decodeURIComponent(part)
  } catch {
    return part
  }
}

/** Counts up each `ms` while the page can be seen, and once when it is seen again. */
export function useClock(ms: number): number {
  const [count, setCount] = useState(0)
  useEffect(() => {
    const tick = () => {
      if (document.visibilityState === 'visible') setCount((before) => before + 1)
    }
    const clock = setInterval(tick, ms)
    document.addEventListener('visibilitychange', tick)
    return () => {
      clearInterval(clock)
      document.removeEventListener('visibilitychange', tick)
    }
  }, [ms])
  return count
}

/** The width of an element in whole hundreds of pixels, so that small changes ask for nothing new. */
export function useWidth(): [(element: HTMLElement | null) => void, number] {
  const [element, setElement] = useState<HTMLElement | null>(null)
  const [width, setWidth] = useState(0)
  useEffect(() => {
    if (!element) return
    const observer = new ResizeObserver(() => setWidth(element.clientWidth))
    observer.observe(element)
    setWidth(element.clientWidth)
    return () => observer.disconnect()
  }, [element])
  return [setElement, width]
}
