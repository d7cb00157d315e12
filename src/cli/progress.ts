import type { RunEvent, Waiting } from '../domain/run/state.ts'
import type { Output, Paint } from './terminal.ts'
import { cut, cutColoured, printable, widthOf } from './terminal.ts'

const bars = '▁▂▃▄▅▆▇█'
const redrawMs = 200
const plainEverySteps = 50

/** The course of some values as a line of blocks, lowest at the bottom; not finite ones are gaps. */
export function sparkline(values: readonly number[], width: number): string {
  if (values.length === 0) return ''
  const cells = Math.min(width, values.length)
  const means = Array.from({ length: cells }, (_, cell) => {
    const part = values
      .slice(Math.floor((cell * values.length) / cells), Math.floor(((cell + 1) * values.length) / cells))
      .filter(Number.isFinite)
    return part.reduce((sum, value) => sum + value, 0) / part.length
  })
  const finite = means.filter(Number.isFinite)
  const low = Math.min(...finite)
  const span = Math.max(...finite) - low || 1
  return means.map((value) => (Number.isFinite(value) ? bars[Math.min(7, Math.floor(((value - low) / span) * 8))] : ' ')).join('')
}

/** Seconds as people say them: `42 s`, `3 min 20 s`, `5 h 12 min`. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return '–'
  const whole = Math.max(0, Math.round(seconds))
  if (whole < 60) return `${whole} s`
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`
}

/** A number with few digits: `0.0123`, `12.3`, `1.2e-5`. */
export function brief(value: number | undefined): string {
  if (value === undefined) return '–'
  if (!Number.isFinite(value)) return String(value)
  const size = Math.abs(value)
  return size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(2).replace(/\.?0+e/, 'e') : String(Number(value.toPrecision(4)))
}

/**
 * The view of one run while it trains: a few lines redrawn in place on a terminal, one line now and then elsewhere.
 */
export class Progress {
  readonly #out: Output
  readonly #paint: Paint
  readonly #title: string
  readonly #losses: { readonly step: number; readonly loss: number }[] = []
  #drawn = 0
  #lastDraw = 0
  #lastPlain = 0
  #step = 0
  #steps = 0
  #loss: number | undefined
  #heldOut: { raw: number; ema: number | undefined; psnr: number | undefined } | undefined
  #learningRate: number | undefined
  #secondsPerStep: number | undefined
  #memoryBytes: number | undefined
  #notice = ''

  constructor(out: Output, paint: Paint, title: string) {
    this.#out = out
    this.#paint = paint
    this.#title = title
  }

  /** Takes one event of the run. */
  add({ event }: RunEvent): void {
    switch (event.event) {
      case 'started':
        this.#steps = event.steps
        this.#goTo(event.step)
        break
      case 'step':
        this.#addStep(event)
        break
      case 'heldOut':
        this.#heldOut = { raw: event.raw.loss, ema: event.ema?.loss, psnr: (event.ema ?? event.raw).psnr ?? undefined }
        this.#plain(`held-out loss ${this.#heldOutText()}`)
        break
      case 'checkpoint':
        this.#note(`checkpoint at step ${event.step}`)
        break
      case 'phase':
        this.#note(`phase ${event.index + 1} from step ${event.step + 1}: trains ${event.trainable.join(' ')}`)
        break
      case 'phaseProof':
        this.#note(
          event.frozenChanged.length > 0
            ? `frozen tensors changed: ${event.frozenChanged.join(', ')}`
            : `${event.frozen} frozen tensors are unchanged`,
        )
        break
      case 'waiting':
        this.#note(waitingText(event))
        break
      case 'loaded':
        if (event.what === 'discriminator' && event.missing.length > 0)
          this.#note(
            'no discriminator beside the starting weights: a new one begins (objective.discriminatorWarmup lets it learn alone first)',
          )
        break
      case 'incident':
        this.#note(
          event.severity === 'advice' ? `advice: ${event.message}; ${event.advice}` : `incident: ${event.message}; ${event.action}`,
        )
        break
      case 'command':
        this.#addCommand(event)
        break
      case 'sample':
        this.#note(`sample ${event.path}`)
        break
      case 'skippedClips':
        this.#note(`${event.total} clips could not be decoded, last ${event.paths.at(-1)}`)
        break
      case 'cache':
        this.#note(
          `${event.kind} kept: ${event.found} of ${event.lookedAt}${event.stale.length > 0 ? `; ${event.stale.length} stale ones are made anew, first ${event.stale[0]}` : ''}`,
        )
        break
      case 'cacheProblem':
        this.#note(event.message)
        break
      default:
        break
    }
    this.#draw(false)
  }

  /** Leaves the last view on the screen. */
  end(): void {
    this.#draw(true)
    this.#drawn = 0
  }

  /** Forgets the steps that a continued or rolled-back run does again. */
  #goTo(step: number): void {
    while ((this.#losses.at(-1)?.step ?? 0) > step) this.#losses.pop()
    this.#lastPlain = Math.min(this.#lastPlain, step)
    this.#step = step
  }

  #addCommand({ name, path, status, step, effective }: Extract<RunEvent['event'], { event: 'command' }>): void {
    if (path === 'steps' && status === 'applied' && typeof effective === 'number') this.#steps = effective
    const value = effective == null ? '' : `: ${JSON.stringify(effective)}`
    this.#note(`${name}${typeof path === 'string' ? ` ${path}` : ''} ${status} from step ${step}${value}`)
  }

  #addStep(event: Extract<RunEvent['event'], { event: 'step' }>): void {
    this.#goTo(event.step - 1)
    this.#step = event.step
    // After a loss that is no number the mean begins anew; before, it would stay none for ever.
    this.#loss = Number.isFinite(this.#loss) ? 0.95 * (this.#loss ?? 0) + 0.05 * event.loss : event.loss
    this.#losses.push({ step: event.step, loss: event.loss })
    this.#learningRate = event.learningRate
    this.#secondsPerStep =
      this.#secondsPerStep === undefined ? event.secondsPerStep : 0.9 * this.#secondsPerStep + 0.1 * event.secondsPerStep
    this.#memoryBytes = event.memoryBytes ?? undefined
    if (event.step - this.#lastPlain >= plainEverySteps) {
      this.#lastPlain = event.step
      this.#plain(
        `loss ${brief(this.#loss)}, ${brief(1 / (this.#secondsPerStep ?? Number.NaN))} steps/s, ${duration(this.#secondsLeft())} left`,
      )
    }
  }

  #secondsLeft(): number {
    return (this.#steps - this.#step) * (this.#secondsPerStep ?? Number.NaN)
  }

  #heldOutText(): string {
    const measured = this.#heldOut
    if (!measured) return '–'
    const loss = brief(measured.ema ?? measured.raw)
    return measured.psnr === undefined ? loss : `${loss} (${measured.psnr.toFixed(1)} dB)`
  }

  #note(text: string): void {
    this.#notice = printable(text)
    this.#plain(this.#notice)
  }

  #plain(text: string): void {
    if (!this.#out.isTTY) this.#out.write(`${this.#title} ${this.#step}/${this.#steps}  ${text}\n`)
  }

  #draw(force: boolean): void {
    if (!this.#out.isTTY || this.#steps === 0) return
    const now = performance.now()
    if (!force && now - this.#lastDraw < redrawMs) return
    this.#lastDraw = now
    const width = widthOf(this.#out)
    const lines = this.#lines(width)
    const back = this.#drawn > 0 ? `\u001b[${this.#drawn}A` : ''
    this.#out.write(back + lines.map((line) => `\r\u001b[2K${cutColoured(line, this.#out.columns ?? width)}\n`).join(''))
    this.#drawn = lines.length
  }

  #lines(width: number): string[] {
    const { bold, dim, cyan, green } = this.#paint
    const share = this.#steps === 0 ? 0 : Math.min(1, this.#step / this.#steps)
    const barWidth = Math.max(10, Math.min(36, width - 40))
    const full = Math.round(share * barWidth)
    const bar = green('━'.repeat(full)) + dim('━'.repeat(barWidth - full))
    const speed = this.#secondsPerStep === undefined ? '–' : `${brief(1 / this.#secondsPerStep)} steps/s`
    const memory = this.#memoryBytes === undefined ? '' : `   memory ${(this.#memoryBytes / 2 ** 30).toFixed(1)} GiB`
    return [
      `${bold(this.#title)}  ${bar} ${this.#step}/${this.#steps}  ${dim(`${duration(this.#secondsLeft())} left`)}`,
      `  loss ${bold(brief(this.#loss))}   held-out ${bold(this.#heldOutText())}   lr ${brief(this.#learningRate)}   ${speed}${memory}`,
      `  ${cyan(
        sparkline(
          this.#losses.map(({ loss }) => loss),
          Math.min(60, width - 4),
        ),
      )}`,
      `  ${dim(cut(this.#notice, width - 4))}`,
    ]
  }
}

/** What a job in a cluster's queue waits for. */
export function waitingText({ why, eligibleAt, restarts }: Pick<Waiting, 'why' | 'eligibleAt' | 'restarts'>): string {
  const when = eligibleAt === null ? '' : `, eligible at ${new Date(eligibleAt * 1000).toISOString().slice(11, 19)} UTC`
  return `queued${restarts > 0 ? ' again' : ''}${why === 'None' ? '' : ` (${why})`}${when}`
}
