import { execa } from 'execa'
import { z } from 'zod'
import { UserError } from '../domain/errors.ts'
import type { Stage } from '../domain/stage/schema.ts'
import type { RunsWorld } from './world.ts'

const failed = z.object({ event: z.literal('failed'), code: z.string(), message: z.string(), hint: z.string() })

/** The events with which `python -m osplan COMMAND` answers a request, in a process of its own. Raises what it calls a person's mistake. */
export async function osplanEvents(command: 'check' | 'sample' | 'probe', request: object, world: RunsWorld): Promise<unknown[]> {
  const { python, pythonPath } = world.python()
  const { stdout, stderr, exitCode } = await execa(python, ['-m', 'osplan', command], {
    cwd: world.cwd,
    env: { PYTHONPATH: pythonPath },
    input: JSON.stringify(request),
    reject: false,
  })
  const events = stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line): unknown => JSON.parse(line))
  const mistake = events.map((event) => failed.safeParse(event)).find(({ success }) => success)?.data
  if (mistake) throw new UserError(mistake.code, mistake.message, { hint: mistake.hint })
  if (exitCode !== 0) throw new Error(`python -m osplan ${command} ended with ${exitCode}: ${stderr.slice(-4000)}`)
  return events
}

/** Refuses stages this trainer does not carry out, before anything is made for them. Raises UserErrors KIND_UNTRAINABLE and SETTING_UNSUPPORTED. */
export async function refuseUntrainable(stages: readonly Stage[], world: RunsWorld): Promise<void> {
  await osplanEvents('check', { stages }, world)
}
