import type { LossCurve } from './loss-curve.ts'
import { brief, duration } from './progress.ts'
import { cut, type Paint } from './terminal.ts'

const curveHeight = 6
const partsColumns = 24

/** What a screen shows of a run. */
export interface Shown {
  readonly title: string
  readonly step: number
  readonly steps: number
  readonly loss: number | undefined
  readonly heldOut: string
  readonly learningRate: number | undefined
  readonly gradientNorm: number | undefined
  readonly secondsPerStep: number | undefined
  readonly memoryBytes: number | undefined
  /** Seconds of a step by what they went into. */
  readonly split: Readonly<Record<string, number>>
  readonly incidents: number
  readonly sample: string | undefined
  readonly notice: string
  readonly curve: LossCurve
}

/** Seconds until the last step at the present speed. */
export function secondsLeft({ step, steps, secondsPerStep }: Pick<Shown, 'step' | 'steps' | 'secondsPerStep'>): number {
  return (steps - step) * (secondsPerStep ?? Number.NaN)
}

/** One calm screen, redrawn in place. Lines may be wider than a very narrow terminal. */
export function screenLines(shown: Shown, width: number, paint: Paint): string[] {
  const { bold, dim } = paint
  const rest = [
    `${bold(shown.title)}  ${bar(shown, width, paint)} ${shown.step}/${shown.steps}  ${dim(`${duration(secondsLeft(shown))} left`)}`,
    numbers(shown, paint),
    ...split(shown, paint),
    ...shown.curve.lines(Math.min(76, width - 4), curveHeight, paint, brief).map((line) => `  ${line}`),
    ...(shown.sample === undefined ? [] : [`  ${dim(`last sample ${cut(shown.sample, width - 16)}`)}`]),
  ]
  return [...rest, `  ${dim(cut(shown.notice, width - 4))}`]
}

function bar({ step, steps }: Shown, width: number, { green, dim }: Paint): string {
  const share = steps === 0 ? 0 : Math.min(1, step / steps)
  const columns = Math.max(10, Math.min(36, width - 40))
  const full = Math.round(share * columns)
  return green('━'.repeat(full)) + dim('━'.repeat(columns - full))
}

function numbers(
  { loss, heldOut, learningRate, gradientNorm, secondsPerStep, memoryBytes, incidents }: Shown,
  { bold, red }: Paint,
): string {
  const parts = [
    `loss ${bold(brief(loss))}`,
    `held-out ${bold(heldOut)}`,
    `lr ${brief(learningRate)}`,
    ...(gradientNorm === undefined ? [] : [`gradient ${brief(gradientNorm)}`]),
    secondsPerStep === undefined ? '–' : `${brief(1 / secondsPerStep)} steps/s`,
    ...(memoryBytes === undefined ? [] : [`memory ${(memoryBytes / 2 ** 30).toFixed(1)} GiB`]),
    ...(incidents === 0 ? [] : [red(`${incidents} ${incidents === 1 ? 'incident' : 'incidents'}`)]),
  ]
  return `  ${parts.join('   ')}`
}

/** What a step's time goes into, as shares of a bar. */
function split({ split: parts }: Shown, { dim, cyan }: Paint): string[] {
  const total = Object.values(parts).reduce((sum, seconds) => sum + seconds, 0)
  if (!(total > 0)) return []
  const shares = Object.entries(parts).sort(([, a], [, b]) => b - a)
  const cells = shares.map(([, seconds], place) => '█▓▒░'.charAt(Math.min(3, place)).repeat(Math.round((seconds / total) * partsColumns)))
  const words = shares.map(([name, seconds]) => `${name} ${Math.round((seconds / total) * 100)} %`)
  return [`  ${cyan(cells.join(''))} ${dim(words.join(' · '))}`]
}
