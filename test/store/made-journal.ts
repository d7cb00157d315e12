/*
 * Journals that no trainer wrote: as long as a test wants them, and every line as the real trainer writes it.
 */

export interface Made {
  readonly steps: number
  /** The step after which the run goes back, once. */
  readonly backAt?: number
  readonly backTo?: number
  /** Losses that stand out, by step. */
  readonly spikes?: Readonly<Record<number, number>>
  readonly startedAt?: number
  /** Lines without split, bins and memory: for journals of a million of them. */
  readonly isPlain?: boolean
}

/** A line of a step, with its line end. */
export function stepLine(step: number, { loss = 1.5, seq = step + 10, ts = 1000 + step / 4, isPlain = false } = {}): string {
  const head = `{"seq":${seq},"ts":${ts},"attempt":1,"event":"step","step":${step},"loss":${loss},"learningRate":0.0003`
  if (isPlain) return `${head},"secondsPerStep":0.28,"clips":8}\n`
  const split = '"split":{"data":0.0016,"forward":0.0562,"backward":0.2119,"optimizer":0.0093}'
  const bins = `"lossByBin":[0.91,null,0.15,null,null,${(loss / 2).toFixed(4)},null,0.37,null,0.31]`
  return `${head},"gradientNorm":${(0.4 + loss / 5 + (step % 7) / 90).toFixed(3)},"secondsPerStep":${0.28 + (step % 11) / 400},"clips":8,"tokens":864,${split},${bins},"memoryBytes":544002048,"extra":null}\n`
}

/** Numbers from -0.5 to 0.5 that are the same each time. */
function noiseOf(seed: number): () => number {
  let state = seed
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 32 - 0.5
  }
}

/** Every line of a journal, from its first to its last step. */
export function journalLines({ steps, backAt, backTo = 0, spikes = {}, startedAt = 1000, isPlain = false }: Made): string[] {
  let seq = 0
  let ts = startedAt
  const noise = noiseOf(7)
  const line = (event: string, more: string) => `{"seq":${seq++},"ts":${ts},"attempt":1,"event":"${event}",${more}}\n`
  const lines = [
    line('opened', '"formatVersion":1'),
    line('data', `"clips":40,"heldOut":8,"dropped":{},"stepsPerEpoch":5,"endsAt":${steps},"endsBecause":"steps"`),
    line('started', `"step":0,"steps":${steps}`),
  ]
  let hasGoneBack = backAt === undefined
  for (let step = 1; step <= steps; step += 1) {
    ts += 0.25
    const loss = spikes[step] ?? Number((1.2 + Math.exp(-step / (steps / 4)) + 0.25 * noise()).toFixed(5))
    lines.push(stepLine(step, { loss: step % 50 === 0 ? 1.5 : loss, seq: seq++, ts, isPlain }))
    if (step % Math.ceil(steps / 20) === 0) {
      lines.push(line('heldOut', `"step":${step},"raw":{"loss":${loss},"standardError":0.05},"ema":{"loss":${loss * 0.9}}`))
    }
    if (step === backAt && !hasGoneBack) {
      hasGoneBack = true
      lines.push(
        line(
          'incident',
          `"step":${step},"kind":"non-finite","message":"loss was nan","action":"rolled back to ${backTo}","rolledBackTo":${backTo}`,
        ),
      )
      step = backTo
    }
  }
  return lines
}
