import { UserError } from '../domain/errors.ts'
import { rankCounts } from '../domain/ranks.ts'
import type { Stage } from '../domain/stage/schema.ts'
import { parseAddress } from '../runs/address.ts'
import { resolveSides } from '../runs/addresses.ts'
import { withData } from '../runs/chain.ts'
import { exampleJob } from '../runs/job.ts'
import { recipeParent } from '../runs/lint.ts'
import { planStage, type StagePlan } from '../runs/plan.ts'
import type { RunsWorld } from '../runs/world.ts'
import { planLines } from '../weights/text.ts'
import { bytesText } from './bytes-text.ts'
import { hitRate } from './data-cache-run.ts'
import { chosenEngine } from './engine-chosen.ts'
import type { EngineOptions } from './engine-options.ts'
import { type Measured, measuredPlan, measuredRows } from './estimate-text.ts'
import { runsFolderOf, upstreamCheckoutOf } from './folders.ts'
import { brief, sparkline } from './progress.ts'
import type { RunOptions, TrainingWorld } from './run-world.ts'
import { type Paint, paintFor, printable, type World, writeJson } from './terminal.ts'

export interface PlanArguments extends RunOptions, EngineOptions {
  recipe: string
  data: string | undefined
  set: string[]
  probe: boolean
  fit: boolean
  json: boolean
}

const formatVersion = 1

const missingFiles = new Set(['weights-missing', 'data-missing'])

/** Plans every stage an address names. Exit code 1 where starting weights do not fit, or files to start with are not there. */
export async function runPlan(args: PlanArguments, world: TrainingWorld): Promise<void> {
  const runs = await world.runsWorld({
    runsFolder: runsFolderOf(args.runs, world),
    pythonEnv: args.pythonEnv,
    chosenEngine: chosenEngine(args, world),
  })
  parseAddress(args.recipe)
  const context = { cwd: world.cwd, runsFolder: runs.runsFolder, upstreamCheckout: upstreamCheckoutOf(undefined, world), set: args.set }
  const sides = (await resolveSides(args.recipe, context)).map((side) => withData(side, args.data))
  const plans: (StagePlan & Measured & { start?: Start })[] = []
  for (const [place, side] of sides.entries()) {
    // A published stage names files of those who trained it; clips that were asked for have to be there.
    const without = { weights: true, data: args.data === undefined }
    const planned = await planStage(side, runs, recipeParent(sides, place), without)
    if (!args.json) printPlan(planned, world)
    const start = runs.chosenEngine ? await startOf(side.stage, runs) : undefined
    const measured = await measuredPlan(side, args, runs, without)
    plans.push({ ...planned, ...measured, ...(start ? { start } : {}) })
    if (args.json) continue
    if (start) world.stdout.write(`  starts        ${start.text}\n`)
    printRows(measuredRows(measured, side.stage.steps), world)
  }
  if (args.json) writeJson(world.stdout, { formatVersion, plans: plans.map(planJson) })
  const isRefused = ({ load, start, findings }: (typeof plans)[number]) =>
    (load && load.refused.length > 0) || start?.isPossible === false || findings.some(({ rule }) => missingFiles.has(rule))
  if (plans.some(isRefused)) world.setExitCode(1)
}

export interface Start {
  readonly isPossible: boolean
  readonly text: string
}

/** When a stage would start where it shall train; a cluster that would not take it is an answer too. */
export async function startOf(stage: Stage, runs: RunsWorld): Promise<Start> {
  try {
    return { isPossible: true, text: await runs.engine.forecast(exampleJob(stage, runs)) }
  } catch (cause) {
    if (cause instanceof UserError && ['SLURM_REFUSED', 'ENGINE_NODES'].includes(cause.code))
      return { isPossible: false, text: cause.message }
    throw cause
  }
}

function planJson({ answers, ...rest }: StagePlan) {
  const { shapes: _, ...parameters } = answers.parameters
  return { ...rest, ...answers, parameters }
}

/** Prints the plan of one stage. */
export function printPlan(plan: StagePlan, world: World): void {
  const paint = paintFor(world.stdout, world.env)
  const rows = rowsOf(plan, paint)
  world.stdout.write(`${paint.bold(plan.stage.name)} ${paint.dim(`(${plan.stage.kind}, ${plan.label})`)}\n`)
  printRows(rows, world)
  if (plan.load)
    world.stdout.write(
      planLines(plan.load)
        .map((line) => `  ${line}\n`)
        .join(''),
    )
  for (const { severity, message, hint } of plan.findings) world.stdout.write(`  ${severity}: ${message}\n    hint: ${hint}\n`)
}

function printRows(rows: readonly [string, string][], world: World): void {
  const paint = paintFor(world.stdout, world.env)
  world.stdout.write(rows.map(([name, text]) => `  ${paint.dim(name.padEnd(14))}${text}\n`).join(''))
}

function rowsOf({ stage, answers, disk, globalBatch, latent, tokensPerClip }: StagePlan, paint: Paint): [string, string][] {
  const { parameters, memory, data, learningRate } = answers
  const rates = learningRate.map((point) => point.learningRate)
  const { frames, height, width } = stage.shape
  const rows: [string, string][] = [
    ['parameters', `${millions(parameters.total)} in ${parameters.tensors} tensors${adaptersText(stage, parameters.adapters)}`],
    ...parameters.phases.map((phase): [string, string] => {
      const when = phase.waitsForPlateau ? 'at a plateau' : `from step ${phase.start}`
      const rest = `trains ${millions(phase.trainable)} (${percent(phase.share)}), optimiser ${bytesText(phase.optimizerBytes)}: ${phase.selectors.join(' ')}`
      return [parameters.phases.length > 1 ? when : 'trainable', rest]
    }),
    ['starts from', stage.init.weights === null ? 'random weights' : `${stage.init.weights} (${stage.init.use})`],
    ['learning rate', `${paint.cyan(sparkline(rates, 32))} ${brief(Math.max(...rates))} (${stage.schedule.name})`],
    [
      'clip',
      `${frames}×${height}×${width} px${latent ? ` → latent ${latent.frames}×${latent.height}×${latent.width}` : ''}${tokensPerClip ? `, ${tokensPerClip} tokens` : ''}`,
    ],
    [
      'global batch',
      `${stage.batch.perDevice} clips × ${stage.batch.accumulate} passes × ${globalBatch / (stage.batch.perDevice * stage.batch.accumulate)} ranks = ${globalBatch} clips a step`,
    ],
    ['other ranks', `${rankCounts(stage).join(', ')} keep the global batch${whatRanksChange(stage)}`],
    ['memory', `about ${bytesText(memory.total)} a rank (± ${Math.round(100 * memory.error)} %)`],
    ['disk', diskText(disk, stage.checkpoint.keepLast)],
  ]
  if (!data) return [...rows, ['data', 'none named: pass --data FOLDER']]
  const dropped = Object.entries(data.dropped).map(([rule, count]) => `${count} ${rule}`)
  return [
    ...rows,
    ...cacheRows(answers),
    ['data', `${data.clips} clips, ${data.heldOut} held out${dropped.length > 0 ? `, dropped: ${dropped.join(', ')}` : ''}`],
    ['ends', `at step ${data.endsAt}: ${data.endsBecause}`],
  ]
}

/** Checkpoints against the disk, and what to do where they do not fit. */
export function diskText({ checkpointBytes, checkpoints, bytes: needed, freeBytes }: StagePlan['disk'], keepLast: number | null): string {
  const most = `${checkpoints} checkpoint${checkpoints === 1 ? '' : 's'} of about ${bytesText(checkpointBytes)} at once`
  if (needed <= freeBytes) return `${most}; ${bytesText(freeBytes)} free`
  const canKeepFewer = 2 * checkpointBytes <= freeBytes && (keepLast === null || keepLast > 1)
  const todo = canKeepFewer ? `${keepLast === null ? 'set' : 'lower'} checkpoint.keepLast` : 'put runs on a larger disk with --runs'
  return `${most}, ${bytesText(needed)}, and only ${bytesText(freeBytes)} free: ${todo}`
}

/** What another number of ranks does change. */
function whatRanksChange({ compat, lora }: StagePlan['stage']): string {
  const changed = [
    ...(compat.times === 'upstream' ? ['which rank draws which times (compat.times: upstream)'] : []),
    ...(lora.dropout > 0 && lora.rank !== null ? ['what dropout drops'] : []),
  ]
  return changed.length > 0 ? `, but not ${changed.join(' and ')}` : ''
}

function adaptersText({ lora }: StagePlan['stage'], count: number): string {
  return count === 0 ? '' : `, ${millions(count)} of them adapters of rank ${lora.rank}; the rest stays frozen`
}

/** Three digits, so that the small share of adapters does not read as nothing. */
function percent(share: number): string {
  return `${share > 0.995 && share < 1 ? (100 * share).toFixed(2) : Number((100 * share).toPrecision(share < 0.1 ? 2 : 3))} %`
}

function cacheRows({ cache }: StagePlan['answers']): [string, string][] {
  if (!cache) return []
  const kinds = [['latents', cache.latents] as const, ['text', cache.text] as const]
  const rows = kinds.flatMap(([kind, coverage]): [string, string][] => {
    if (!coverage) return []
    const { stale } = coverage
    const named = stale.length > 0 ? `; ${stale.length} stale and not used: ${stale.slice(0, 3).map(printable).join(', ')}` : ''
    return [['cache', `${kind} ${hitRate(coverage)}${named}`]]
  })
  return cache.latents ? rows : [...rows, ['cache', `latents: ${cache.why ?? 'not kept'}`]]
}

function millions(count: number): string {
  if (count >= 1e9) return `${(count / 1e9).toFixed(2)} B`
  return count >= 1e5 ? `${(count / 1e6).toFixed(2)} M` : `${(count / 1e3).toFixed(1)} k`
}
