import type { StageSide } from '../domain/stage/origin.ts'
import { type Estimate, estimateStage, type Probe, probeStage } from '../runs/estimate.ts'
import { estimateInputs, type Without } from '../runs/plan.ts'
import type { RunsWorld } from '../runs/world.ts'
import { bytesText } from './bytes-text.ts'
import { brief, duration } from './progress.ts'

type Rows = [string, string][]

/** What was asked for beside a plan. */
export interface Measured {
  readonly estimate?: Estimate
  readonly probe?: Probe
}

/** Estimates and probes a stage, as far as it is asked for. */
export async function measuredPlan(
  side: StageSide,
  wanted: { fit: boolean; probe: boolean },
  runs: RunsWorld,
  without: Without,
): Promise<Measured> {
  if (!wanted.probe && !wanted.fit) return {}
  const inputs = estimateInputs(side, runs, without)
  return {
    ...(wanted.fit ? { estimate: await estimateStage(side.stage, inputs, runs) } : {}),
    ...(wanted.probe ? { probe: await probeStage(side.stage, inputs, runs) } : {}),
  }
}

/** Both as rows of a plan. */
export function measuredRows({ estimate, probe }: Measured, stageSteps: number): Rows {
  return [...(estimate ? estimateRows(estimate, probe) : []), ...(probe ? probeRows(probe, stageSteps) : [])]
}

/** Seconds of a step over those estimated without a probe, least and most: what was seen of many stages, which docs/estimates.md lists. */
const seenOverEstimated = { least: 0.9, most: 2 }

/** What a probe measured, what it had been estimated at, and what follows for the whole stage. */
function probeRows({ largest, device, threads, ranks, steps, seconds, memory }: Probe, stageSteps: number): Rows {
  const parts = Object.entries(seconds.split).filter(([, value]) => value > 0.005 * seconds.measured)
  const split = parts.map(([name, value]) => `${name} ${Math.round((100 * value) / seconds.measured)} %`).join(', ')
  const place = device === 'cpu' ? `CPU, ${threads} ${threads === 1 ? 'thread' : 'threads'}` : device
  const where = ranks > 1 ? `${ranks} ranks (${place} each)` : place
  const { check, loading } = seconds
  const checked = `for ${shapeText(check.shape)} it says ${brief(check.predicted)} s, measured ${brief(check.measured)} s (${signed(check.error)})`
  return [
    ['probe', `${steps} steps of ${shapeText(largest)} on ${where}: ${brief(seconds.measured)} s a step (${split})`],
    ['', `without it the estimate had said ${brief(seconds.estimated)} s (${signed(seconds.error)}); calibrated by it, ${checked}`],
    ['', `${bytesText(memory.process + memory.measured)} at most, ${memoryText(memory)}`],
    ...(memory.checkpoint > 0 ? [['', `and ${bytesText(memory.checkpoint)} while a checkpoint is written`] as [string, string]] : []),
    [
      'takes',
      `${brief(seconds.perStep)} s a step over its buckets${loading > 0 ? `, reading clips (${brief(loading)} s of a core) included` : ''}: ${duration(seconds.stage)} for ${stageSteps} steps`,
    ],
  ]
}

function memoryText({ process, estimated, measured, error }: Probe['memory']): string {
  const base = process > 0 ? `, of which ${bytesText(process)} Python itself` : ''
  return `estimated ${bytesText(process + estimated)} (${signed(error)})${base}; the stage alone ${bytesText(measured)}`
}

/** The estimate by part, and the changes of settings that would need less, the cheapest first. A probe tells what its seconds are worth. */
function estimateRows({ largest, seconds, memory, phases, ways }: Estimate, probe: Probe | undefined): Rows {
  const total = memory.process + memory.estimated + memory.checkpoint
  const parts = Object.entries(memory.parts).map(([name, size]) => `${name} ${bytesText(size)}`)
  if (memory.checkpoint > 0) parts.push(`a checkpoint being written ${bytesText(memory.checkpoint)}`)
  const fits = total <= memory.available ? 'fits into' : 'does not fit into'
  const took = (estimated: number) => secondsText(estimated, probe && probe.seconds.measured / seconds.estimated)
  return [
    [
      'estimate',
      `${bytesText(total)} for ${shapeText(largest)}, ${fits} the ${bytesText(memory.available)} there are; ${took(seconds.estimated)}`,
    ],
    ['', parts.join(', ')],
    ...phases.map(({ start, waitsForPlateau, bytes, seconds: each }): [string, string] => [
      waitsForPlateau ? 'at a plateau' : `from step ${start}`,
      `${bytesText(memory.process + bytes)}, ${took(each)}`,
    ]),
    ...ways.map(({ settings, bytes, slowdown, changesTraining }, place): [string, string] => {
      const changes = Object.entries(settings).map(([path, value]) => `${path}=${JSON.stringify(value)}`)
      const learns = changesTraining ? '; learns something else' : ''
      return [
        place === 0 ? 'to need less' : '',
        `${changes.join(' ')}: ${bytesText(memory.process + bytes)}, ${workText(slowdown)}${learns}`,
      ]
    }),
  ]
}

/** Seconds of a step: as a probe of the stage tells them, else no nearer than they are known. */
function secondsText(estimated: number, calibration: number | undefined): string {
  if (calibration !== undefined) return `about ${brief(estimated * calibration)} s a step`
  const { least, most } = seenOverEstimated
  return `${brief(estimated * least)} to ${brief(estimated * most)} s a step (--probe measures it)`
}

/** What a change costs, in counted work: a ratio that is known to a tenth or so. */
function workText(slowdown: number): string {
  const tenths = Math.round(10 * (slowdown - 1))
  return tenths === 0 ? 'about as much work' : `about ${signed(tenths / 10)} work`
}

function shapeText({ clips, frames, height, width }: Estimate['largest']): string {
  return `${clips} × ${frames}×${height}×${width} px`
}

function signed(share: number): string {
  return `${share < 0 ? '−' : '+'}${Math.abs(100 * share).toFixed(0)} %`
}
