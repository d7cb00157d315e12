import { z } from 'zod'
import { sendCommand, stopRun } from '../runs/control.ts'
import { describeHandOff, type HandOff } from '../runs/hand-off.ts'
import { continueRun, goingOn } from '../runs/launch.ts'
import type { RunsWorld } from '../runs/world.ts'
import type { Run } from '../store/runs.ts'

const reason = z.string().max(500).nullish()

/** What a page may ask of a run. */
export const actionSchema = z.discriminatedUnion('name', [
  z.strictObject({ name: z.literal('set'), path: z.string().min(1).max(200), value: z.unknown(), reason }),
  z.strictObject({ name: z.literal('stop'), after: z.int().nonnegative().nullish(), reason }),
  z.strictObject({ name: z.literal('pause'), reason }),
  z.strictObject({ name: z.literal('checkpoint'), reason }),
  z.strictObject({ name: z.literal('sample'), reason }),
  z.strictObject({ name: z.literal('continue'), reason }),
])
export type Action = z.output<typeof actionSchema>

/** What came of an action: the first step that sees it and the value in effect, or what a continued run carries on. */
export interface Done {
  readonly step: number | null
  readonly effective: unknown
  readonly handOff: HandOff | null
}

/** Does what was asked and waits until it has taken effect. Raises the UserErrors of control and launch. */
export async function act(run: Run, action: Action, world: RunsWorld): Promise<Done> {
  const asPage = { ...world, actor: `${world.actor} (page)` }
  if (action.name === 'continue') return { step: null, effective: null, handOff: await continueRun(run, asPage) }
  if (action.name === 'stop') {
    await stopRun(
      run,
      { ...(action.after == null ? {} : { after: action.after }), ...(action.reason == null ? {} : { reason: action.reason }) },
      asPage,
    )
    return { step: null, effective: null, handOff: null }
  }
  const { step, effective } = await sendCommand(run, { ...action, reason: action.reason ?? null }, asPage)
  return { step, effective, handOff: null }
}

/** What an action hands on, to be read before it is confirmed; null where nothing is handed on. */
export function handOffFor(run: Run, name: string): HandOff | null {
  if (name === 'continue') return goingOn(run)
  return name === 'pause' || name === 'stop' ? describeHandOff('continue', 'the checkpoint written then', run.stage) : null
}
