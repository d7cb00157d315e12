import { resolve } from 'node:path'
import type { World } from './terminal.ts'

/** Folder of the runs: `--runs`, STAGEWRIGHT_RUNS, or `runs` under the current folder. */
export function runsFolderOf(option: string | undefined, { cwd, env }: World): string {
  return resolve(cwd, option || env.STAGEWRIGHT_RUNS || 'runs')
}

/** Checkout of Open-Sora-Plan: `--upstream` or STAGEWRIGHT_UPSTREAM. */
export function upstreamCheckoutOf(option: string | undefined, { cwd, env }: World): string | undefined {
  const folder = option || env.STAGEWRIGHT_UPSTREAM
  return folder ? resolve(cwd, folder) : undefined
}
