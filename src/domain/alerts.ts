import { z } from 'zod'
import { endReasons, formatVersion } from './protocol.ts'
import type { RunEvent } from './run/state.ts'

/*
 * When somebody should be told of a run: rules over the events of its journal. Whether and how a message goes out is not decided here.
 */

const named = { name: z.string().min(1), cooldownMinutes: z.number().nonnegative().default(30) }
const metric = z.enum(['loss', 'learningRate', 'gradientNorm', 'secondsPerStep', 'heldOut'])

export const alertRule = z.discriminatedUnion('on', [
  /** An attempt ended for one of some reasons; without any, for a bad one. */
  z.strictObject({ ...named, on: z.literal('ended'), reasons: z.array(z.enum(endReasons)).optional() }),
  /** The trainer saw something: any incident, or some kinds. */
  z.strictObject({ ...named, on: z.literal('incident'), kinds: z.array(z.string()).optional() }),
  /** A measurement is above or below a limit for so many measurements in a row. */
  z.strictObject({
    ...named,
    on: z.literal('metric'),
    metric,
    above: z.number().optional(),
    below: z.number().optional(),
    times: z.int().positive().default(1),
  }),
  /** A checkpoint was written. */
  z.strictObject({ ...named, on: z.literal('checkpoint') }),
  /** Nothing was heard of a run that has not ended. */
  z.strictObject({ ...named, on: z.literal('silence'), minutes: z.number().positive() }),
])
export type AlertRule = z.output<typeof alertRule>

const sink = z.union([
  z.strictObject({ webhook: z.url({ protocol: /^https?$/ }) }),
  z.strictObject({ command: z.array(z.string()).min(1) }),
  z.strictObject({ mail: z.email() }),
])
export type AlertSink = z.output<typeof sink>

/** An alerts file. */
export const alertsFile = z.strictObject({
  formatVersion: z.literal(formatVersion),
  rules: z.array(alertRule).min(1),
  send: z.array(sink).min(1),
})
export type AlertsFile = z.output<typeof alertsFile>

/** One thing to tell somebody. Seconds since 1970. */
export interface Alert {
  readonly rule: string
  readonly run: string
  readonly ts: number
  readonly message: string
}

const badEnds: readonly string[] = ['non-finite', 'out-of-memory', 'disk-full', 'failed', 'killed', 'lost']

/** The rules over one run: what each of its events sets off, cooldowns kept. */
export class AlertFold {
  readonly #run: string
  readonly #rules: readonly AlertRule[]
  readonly #inARow = new Map<string, number>()
  readonly #lastAt = new Map<string, number>()
  #heardAt = 0
  #isOpen = false

  constructor(run: string, rules: readonly AlertRule[]) {
    this.#run = run
    this.#rules = rules
  }

  add({ event }: RunEvent): Alert[] {
    const before = this.silence(event.ts)
    this.#heardAt = Math.max(this.#heardAt, event.ts)
    this.#isOpen = event.event !== 'ended'
    return [...before, ...this.#rules.flatMap((rule) => this.#alert(rule, event.ts, this.#message(rule, event)))]
  }

  /** What the silence up to a time sets off. */
  silence(now: number): Alert[] {
    if (!this.#isOpen) return []
    const minutes = (now - this.#heardAt) / 60
    return this.#rules.flatMap((rule) => {
      const isSilent = rule.on === 'silence' && minutes >= rule.minutes
      return this.#alert(
        rule,
        this.#heardAt + (isSilent ? rule.minutes * 60 : 0),
        isSilent ? `nothing heard for ${rule.minutes} min` : undefined,
      )
    })
  }

  #alert(rule: AlertRule, ts: number, message: string | undefined): Alert[] {
    if (message === undefined) return []
    const last = this.#lastAt.get(rule.name)
    if (last !== undefined && ts - last < rule.cooldownMinutes * 60) return []
    this.#lastAt.set(rule.name, ts)
    return [{ rule: rule.name, run: this.#run, ts, message }]
  }

  #message(rule: AlertRule, event: RunEvent['event']): string | undefined {
    switch (rule.on) {
      case 'ended':
        if (event.event !== 'ended' || !(rule.reasons ?? badEnds).includes(event.reason)) return undefined
        return `${event.reason}: ${event.message}`
      case 'incident':
        if (event.event !== 'incident' || !(rule.kinds?.includes(event.kind) ?? true)) return undefined
        return `${event.kind} at step ${event.step}: ${event.message}; ${event.action}`
      case 'checkpoint':
        return event.event === 'checkpoint' ? `checkpoint at step ${event.step}` : undefined
      case 'metric':
        return this.#metricMessage(rule, event)
      case 'silence':
        return undefined
      default:
        return rule satisfies never
    }
  }

  #metricMessage(rule: Extract<AlertRule, { on: 'metric' }>, event: RunEvent['event']): string | undefined {
    const value = measured(rule.metric, event)
    if (value === undefined) return undefined
    const { above, below } = rule
    // What is not a number is beyond any limit.
    const isBeyond = Number.isNaN(value) || (above !== undefined && value > above) || (below !== undefined && value < below)
    const count = isBeyond ? (this.#inARow.get(rule.name) ?? 0) + 1 : 0
    this.#inARow.set(rule.name, count)
    if (count < rule.times) return undefined
    const step = 'step' in event ? ` at step ${event.step}` : ''
    return `${rule.metric} is ${Number.isFinite(value) ? Number(value.toPrecision(4)) : value}${step}`
  }
}

function measured(name: z.output<typeof metric>, event: RunEvent['event']): number | undefined {
  if (name === 'heldOut') return event.event === 'heldOut' ? (event.ema ?? event.raw).loss : undefined
  return event.event === 'step' ? (event[name] ?? undefined) : undefined
}
