import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { ConnectionLost, TrainerClient } from '../bridge/trainer-client.ts'
import { UserError } from '../domain/errors.ts'
import type { Command, TrainerEvent } from '../domain/protocol.ts'
import { type Attempt, newestAttempt } from '../domain/run/state.ts'
import { fieldOf } from '../domain/stage/fields.ts'
import { writeAtomically } from '../store/files.ts'
import { type JournalReader, trainerJournal } from '../store/journal.ts'
import { filesOf, forgetKill, type Run, requestKill } from '../store/runs.ts'
import { handleOf, jobPlace } from './job.ts'
import { isGone, settledState } from './supervise.ts'
import type { RunsWorld } from './world.ts'

const pollMs = 100
const looksPerSettling = 10

/** A command without its envelope. */
export type Ask = Command extends infer Each ? (Each extends Command ? Omit<Each, 'id' | 'by'> : never) : never

/** What became of a command: the first step that sees it, and the value in effect. */
export type Acknowledgement = Extract<TrainerEvent, { event: 'command' }>

/**
 * Tells a running trainer something and waits until it has taken effect. Goes over its socket, or as a file where that cannot be
 * reached. Raises UserErrors RUN_NOT_ACTIVE, NOT_LIVE, SAMPLE_PROMPTS and COMMAND_REFUSED.
 */
export async function sendCommand(run: Run, ask: Ask, world: RunsWorld): Promise<Acknowledgement> {
  const state = await settledState(run, world)
  const attempt = newestAttempt(state)
  if (!attempt || attempt.end) throw notActive(run, attempt)
  if (ask.name === 'set') checkLive(ask.path)
  if (ask.name === 'sample') checkSamples(run)
  const command = { ...ask, id: `${world.now().getTime().toString(36)}-${world.random(6)}`, by: world.actor } as Command
  const client = attempt.socket === undefined ? undefined : await TrainerClient.connect(attempt.socket, run.id)
  const reader = trainerJournal(filesOf(run.folder).trainer)
  reader.next()
  if (!client) writeAtomically(join(filesOf(run.folder).commands, `${command.id}.json`), JSON.stringify(command))
  const answer = (client && (await overSocket(client, command))) ?? (await fromJournal(run, attempt, command, reader, world))
  if (answer.status === 'refused') {
    throw new UserError('COMMAND_REFUSED', `${run.id}: expected ${ask.name} to be applied, got: ${answer.message ?? 'refused'}`, {
      hint: 'see `stagewright show`',
      exitCode: 1,
    })
  }
  return answer
}

function notActive(run: Run, attempt: Attempt | undefined): UserError {
  const state = attempt ? `ended: ${attempt.end?.reason}` : 'has not started'
  return new UserError('RUN_NOT_ACTIVE', `${run.id}: expected a run that trains, got one that ${state}`, {
    hint: `stagewright continue ${run.id}`,
    exitCode: 1,
  })
}

/** Raises UserError NOT_LIVE for a field that cannot change while a run trains, with what it would take. */
export function checkLive(path: string): void {
  const field = fieldOf(path)
  if (!field)
    throw new UserError('SETTING_UNKNOWN', `${path}: expected a setting, got none of that name`, { hint: 'docs/settings.md lists them' })
  if (field.impact === 'live') return
  const needs =
    field.impact === 'restart'
      ? 'a restart'
      : field.impact === 'none'
        ? 'nothing: it does not act on training'
        : `a new run (${field.impact})`
  throw new UserError('NOT_LIVE', `${path}: expected a setting that can change while a run trains, got one that needs ${needs}`, {
    hint: `stop the run, then stagewright branch RUN --set ${path}=…`,
  })
}

/** A stage without prompts has nothing to sample; an autoencoder shows held-out clips. */
function checkSamples({ id, stage }: Run): void {
  if (stage.kind === 'vae' || stage.samples.prompts.length > 0) return
  throw new UserError('SAMPLE_PROMPTS', `${id}: expected a stage with samples.prompts, got one without`, {
    hint: `stagewright sample ${id} --prompt TEXT samples its newest checkpoint`,
  })
}

/** The answer to a command; undefined where the connection ends before it: the journal may have it. */
async function overSocket(client: TrainerClient, { name, ...params }: Command): Promise<Acknowledgement | undefined> {
  try {
    return (await client.call(name, params)) as Acknowledgement
  } catch (cause) {
    if (cause instanceof ConnectionLost) return undefined
    throw cause
  } finally {
    client.close()
  }
}

async function fromJournal(
  run: Run,
  attempt: Attempt,
  command: Command,
  reader: JournalReader<TrainerEvent>,
  world: RunsWorld,
): Promise<Acknowledgement> {
  for (let look = 1; ; look += 1) {
    const isOver = look % looksPerSettling === 0 && (await hasEnded(run, attempt, world))
    const answer = reader.next().find((event): event is Acknowledgement => event.event === 'command' && event.id === command.id)
    if (answer) return answer
    if (isOver) {
      rmSync(join(filesOf(run.folder).commands, `${command.id}.json`), { force: true })
      const message = `${run.id}: expected an answer to ${command.name}, got the end of the run`
      throw new UserError('RUN_NOT_ACTIVE', message, { hint: `stagewright show ${run.id}`, exitCode: 1 })
    }
    await sleep(pollMs)
  }
}

/** Reads the whole journal only once the process is gone: that of a long run takes its time. */
async function hasEnded(run: Run, attempt: Attempt, world: RunsWorld): Promise<boolean> {
  if (!(await isGone(run, attempt, world.now().getTime() / 1000, world.engine))) return false
  const { attempts } = await settledState(run, world)
  return attempts.find(({ number }) => number === attempt.number)?.end !== undefined
}

/** Ends a run at the next step boundary with a checkpoint; `kill` leaves it no time. */
export async function stopRun(run: Run, options: { after?: number; kill?: boolean; reason?: string }, world: RunsWorld): Promise<void> {
  if (!options.kill && (await leftQueue(run, world))) return
  if (!options.kill) {
    await sendCommand(run, { name: 'stop', after: options.after ?? null, reason: options.reason ?? null }, world)
    return
  }
  const attempt = newestAttempt(await settledState(run, world))
  if (!attempt || attempt.end) throw notActive(run, attempt)
  requestKill(run, attempt.number, { by: world.actor, inQueue: false })
  world.engine.reconcile(world.engine.ranks(jobPlace(run, attempt)))
  await signalled(run, attempt, 'KILL', world)
}

/** Takes a run out of its cluster's queue, where it stands there; false where it does not. */
async function leftQueue(run: Run, world: RunsWorld): Promise<boolean> {
  const attempt = newestAttempt(await settledState(run, world))
  if (!attempt || attempt.end) return false
  const place = jobPlace(run, attempt)
  if ((await world.engine.observe(handleOf(attempt), place)).state !== 'queued') return false
  requestKill(run, attempt.number, { by: world.actor, inQueue: true })
  await signalled(run, attempt, 'TERM', world)
  return true
}

/** Signals the job of an attempt whose end was asked for; where its engine cannot, that was never asked. */
async function signalled(run: Run, attempt: Attempt, signal: 'TERM' | 'KILL', world: RunsWorld): Promise<void> {
  try {
    await world.engine.signal(handleOf(attempt), jobPlace(run, attempt), signal)
  } catch (cause) {
    forgetKill(run, attempt.number)
    throw cause
  }
}
