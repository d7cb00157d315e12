import type { TrainerEvent } from '../domain/protocol.ts'
import type { RunEvent } from '../domain/run/state.ts'
import { fullDiskText } from '../domain/run/state.ts'
import { LossCurve } from './loss-curve.ts'
import { brief, duration, waitingText } from './progress.ts'
import { Redrawn } from './redrawn.ts'
import { type Shown, screenLines, secondsLeft } from './screen.ts'
import type { Output, Paint } from './terminal.ts'
import { printable, widthOf } from './terminal.ts'

const redrawMs = 200
const plainEverySteps = 50

/**
 * The view of one run while it trains: a few lines redrawn in place on a terminal, one line now and then elsewhere.
 */
export class Progress {
  readonly #out: Output
  readonly #paint: Paint
  readonly #title: string
  readonly #curve = new LossCurve()
  readonly #view: Redrawn
  #lastDraw = 0
  #lastPlain = 0
  #step = 0
  #steps = 0
  #loss: number | undefined
  #heldOut: { raw: number; ema: number | undefined; psnr: number | undefined } | undefined
  #learningRate: number | undefined
  #secondsPerStep: number | undefined
  #memoryBytes: number | undefined
  #gradientNorm: number | undefined
  #split: Record<string, number> = {}
  #incidents = 0
  #sample: string | undefined
  #notice = ''

  constructor(out: Output, paint: Paint, title: string) {
    this.#out = out
    this.#view = new Redrawn(out)
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
        this.#curve.measure(event.step, event.ema?.loss ?? event.raw.loss)
        this.#plain(`held-out loss ${this.#heldOutText()}${againstStart(event.ema ?? event.raw)}`)
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
      case 'diskFull':
        this.#note(`${fullDiskText(event)}; nothing is lost, it goes on by itself`)
        break
      case 'stageFilled':
        this.#note(`settings newer than the run do what was done without them: ${Object.keys(event.settings).join(', ')}`)
        break
      case 'diskFree':
        this.#note(`room on the disk again after ${duration(event.seconds)}`)
        break
      case 'loaded':
        if (event.what === 'discriminator' && event.missing.length > 0)
          this.#note(
            'no discriminator beside the starting weights: a new one begins (objective.discriminatorWarmup lets it learn alone first)',
          )
        break
      case 'incident':
        if (event.severity !== 'advice') this.#incidents += 1
        if (typeof event.rolledBackTo === 'number') this.#goTo(event.rolledBackTo)
        this.#note(
          event.severity === 'advice' ? `advice: ${event.message}; ${event.advice}` : `incident: ${event.message}; ${event.action}`,
        )
        break
      case 'command':
        this.#addCommand(event)
        break
      case 'sample':
        this.#sample = printable(`${event.path}, ${event.prompt}`)
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
    this.#view.leave()
  }

  /** Forgets the steps that a continued or rolled-back run does again. */
  #goTo(step: number): void {
    this.#curve.goTo(step)
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
    this.#curve.add(event.step, event.loss)
    this.#learningRate = event.learningRate
    this.#secondsPerStep =
      this.#secondsPerStep === undefined ? event.secondsPerStep : 0.9 * this.#secondsPerStep + 0.1 * event.secondsPerStep
    this.#memoryBytes = event.memoryBytes ?? undefined
    this.#gradientNorm = event.gradientNorm ?? undefined
    this.#takeSplit(event.split ?? {})
    if (event.step - this.#lastPlain >= plainEverySteps) {
      this.#lastPlain = event.step
      this.#plain(
        `loss ${brief(this.#loss)}, ${brief(1 / (this.#secondsPerStep ?? Number.NaN))} steps/s, ${duration(secondsLeft(this.#shown()))} left`,
      )
    }
  }

  /** Shares of the last steps, so that the bar does not flicker. */
  #takeSplit(split: Readonly<Record<string, number>>): void {
    for (const [name, seconds] of Object.entries(split)) {
      if (Number.isFinite(seconds)) this.#split[printable(name)] = 0.9 * (this.#split[printable(name)] ?? seconds) + 0.1 * seconds
    }
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
    if (!this.#out.isTTY) this.#out.write(`${this.#title} ${this.#steps > 0 ? `${this.#step}/${this.#steps}  ` : ''}${text}\n`)
  }

  #draw(force: boolean): void {
    if (!this.#out.isTTY || this.#steps === 0) return
    const now = performance.now()
    if (!force && now - this.#lastDraw < redrawMs) return
    this.#lastDraw = now
    const width = widthOf(this.#out)
    this.#view.draw(screenLines(this.#shown(), width, this.#paint))
  }

  #shown(): Shown {
    return {
      title: this.#title,
      step: this.#step,
      steps: this.#steps,
      loss: this.#loss,
      heldOut: this.#heldOutText(),
      learningRate: this.#learningRate,
      gradientNorm: this.#gradientNorm,
      secondsPerStep: this.#secondsPerStep,
      memoryBytes: this.#memoryBytes,
      split: this.#split,
      incidents: this.#incidents,
      sample: this.#sample,
      notice: this.#notice,
      curve: this.#curve,
    }
  }
}

/** How far a measurement is from that of the weights the stage started from, clip by clip. */
function againstStart({ againstStart: paired }: Extract<TrainerEvent, { event: 'heldOut' }>['raw']): string {
  if (!paired || paired.difference === 0) return ''
  const { difference, standardError } = paired
  const spread = typeof standardError === 'number' ? ` ± ${brief(standardError)}` : ''
  return `, ${difference < 0 ? '−' : '+'}${brief(Math.abs(difference))}${spread} against its start`
}
