import type { HandOff } from '../runs/hand-off.ts'
import { paintFor, type World } from './terminal.ts'

/** Says what a hand-off keeps, makes anew and begins again. */
export function printHandOff({ verb, from, carried, rebuilt, reset }: HandOff, world: World): void {
  const { bold, dim } = paintFor(world.stdout, world.env)
  const row = (name: string, parts: readonly string[]) => (parts.length > 0 ? [`  ${dim(name.padEnd(8))} ${parts.join(', ')}`] : [])
  const lines = [`${bold(verb)} from ${from}`, ...row('carried', carried), ...row('rebuilt', rebuilt), ...row('reset', reset)]
  world.stdout.write(lines.map((line) => `${line}\n`).join(''))
}
