import { spawnSync } from 'node:child_process'

/** Takes rounds of all sides in turns, so that what disturbs the machine disturbs all of them; one uncounted round first. */
export async function inTurns(
  rounds: number,
  sides: Readonly<Record<string, () => number | Promise<number>>>,
): Promise<Record<string, number[]>> {
  const series: Record<string, number[]> = Object.fromEntries(Object.keys(sides).map((side) => [side, []]))
  for (let round = 0; round <= rounds; round++) {
    for (const [side, take] of Object.entries(sides)) {
      const taken = await take()
      if (round > 0) series[side]?.push(taken)
    }
  }
  return series
}

/** Milliseconds a program takes from its start to its end. Throws where it does not end with the code expected. */
export function processMs(program: string, args: readonly string[], expected = 0): number {
  const began = process.hrtime.bigint()
  const done = spawnSync(program, args, { stdio: ['ignore', 'ignore', 'pipe'], encoding: 'utf8', env: { ...process.env, NO_COLOR: '1' } })
  const ms = Number(process.hrtime.bigint() - began) / 1e6
  if (done.status !== expected)
    throw new Error(`${program} ${args.join(' ')} ended with ${done.status}, expected ${expected}: ${done.stderr}`)
  return ms
}
