import { UserError } from '../domain/errors.ts'
import { sendCommand, stopRun } from '../runs/control.ts'
import { groupRate } from '../runs/group-rate.ts'
import { type Run, readState } from '../store/runs.ts'
import { stopChain } from './chain-actions.ts'
import { chainMeant, opened, type RunArguments } from './run-arguments.ts'
import type { TrainingWorld } from './run-world.ts'
import { writeJson } from './terminal.ts'

const formatVersion = 1

/** What was done, as a sentence or as JSON. */
function say(text: string, answer: Readonly<Record<string, unknown>>, args: RunArguments, world: TrainingWorld): void {
  if (args.json) writeJson(world.stdout, { formatVersion, ...answer })
  else world.stdout.write(`${text}\n`)
}

export async function runStop(args: RunArguments, world: TrainingWorld): Promise<void> {
  const meant = await chainMeant(args, world)
  if (meant) {
    await stopChain(meant.chain, args.kill ?? false, meant.runs)
    const { id } = meant.chain
    const text = args.kill ? 'killed' : 'stops at the next step, with a checkpoint'
    return say(`${id}: ${text}`, { chain: id, command: 'stop', kill: args.kill ?? false }, args, world)
  }
  const { run, runs } = await opened(args, world)
  const after = stepAfter(args)
  await stopRun(
    run,
    {
      kill: args.kill ?? false,
      ...(after === undefined ? {} : { after }),
      ...(args.why === undefined ? {} : { reason: args.why }),
    },
    runs,
  )
  const text = args.kill ? 'killed' : after === undefined ? 'stops at the next step' : `stops after step ${after}`
  say(`${run.id}: ${text}`, { run: run.id, command: 'stop', kill: args.kill ?? false, after: after ?? null }, args, world)
}

/** The step of `--after`. Raises UserErrors AFTER_FORM, and AFTER_KILL where the run would be killed at once. */
function stepAfter({ after, kill }: RunArguments): number | undefined {
  if (after === undefined) return undefined
  if (!/^\d+$/.test(after)) throw new UserError('AFTER_FORM', `--after: expected a step, got ${after}`, { hint: 'for example --after 500' })
  if (kill) throw new UserError('AFTER_KILL', '--after --kill: expected one of them, got both', { hint: 'leave out --kill' })
  return Number(after)
}

export async function runPause(args: RunArguments, world: TrainingWorld): Promise<void> {
  await tell(args, world, 'pause')
}

export async function runCheckpoint(args: RunArguments, world: TrainingWorld): Promise<void> {
  await tell(args, world, 'checkpoint')
}

export async function runMeasure(args: RunArguments, world: TrainingWorld): Promise<void> {
  await tell(args, world, 'measure')
}

export async function runThaw(args: RunArguments, world: TrainingWorld): Promise<void> {
  await tell(args, world, 'thaw')
}

async function tell(args: RunArguments, world: TrainingWorld, name: 'pause' | 'checkpoint' | 'measure' | 'thaw'): Promise<void> {
  const { run, runs } = await opened(args, world)
  const { step } = await sendCommand(run, { name, reason: args.why ?? null }, runs)
  say(`${run.id}: ${name} before step ${step}`, { run: run.id, command: name, beforeStep: step }, args, world)
}

export async function runSet(args: RunArguments, world: TrainingWorld): Promise<void> {
  const { run, runs } = await opened(args, world)
  const changes: { path: string; effective: unknown; fromStep: number }[] = []
  for (const change of args.changes ?? []) {
    const at = change.indexOf('=')
    if (at < 1)
      throw new UserError('SETTING_FORM', `${change}: expected path=value, got no =`, {
        hint: 'for example learningRate=5e-6 or learningRate=*0.5',
      })
    const [path, text] = [change.slice(0, at), change.slice(at + 1)]
    const ask = args.group === undefined ? ({ name: 'set', path, value: parsedValue(text) } as const) : ofGroup(run, args.group, path, text)
    const { step, effective } = await sendCommand(run, { ...ask, reason: args.why ?? null }, runs)
    changes.push({ path: ask.path, effective, fromStep: step })
    if (!args.json) world.stdout.write(`${run.id}: ${ask.path} is ${JSON.stringify(effective)} from step ${step} on\n`)
  }
  if (args.json) writeJson(world.stdout, { formatVersion, run: run.id, command: 'set', changes })
}

function ofGroup(run: Run, group: string, path: string, text: string): ReturnType<typeof groupRate> {
  if (path === 'learningRate') return groupRate(run, readState(run), group, text)
  throw new UserError('GROUP_SETTING', `${path} --group ${group}: expected learningRate, which groups may have of their own, got ${path}`, {
    hint: 'leave out --group',
  })
}

/** A value as typed: JSON where it is some, else the text (`*0.5`, a name). */
function parsedValue(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}
