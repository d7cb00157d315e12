import { UserError } from '../domain/errors.ts'
import { runsFolderOf } from './folders.ts'
import type { RunOptions, TrainingWorld } from './run-world.ts'
import { paintFor, writeJson } from './terminal.ts'

export interface WebArguments extends RunOptions {
  port: number
  newTokens: boolean
  json: boolean
}

const formatVersion = 1

/** Serves the page until Ctrl-C. */
export async function runWeb({ port, newTokens, json, ...args }: WebArguments, world: TrainingWorld): Promise<void> {
  if (!(Number.isInteger(port) && port >= 0 && port < 65_536)) {
    throw new UserError('PORT', `--port: expected a whole number from 0 to 65535, got ${port}`, { hint: 'for example --port 7333' })
  }
  const runs = await world.runsWorld({ runsFolder: runsFolderOf(args.runs, world), pythonEnv: args.pythonEnv })
  const served = await world.serveWeb(runs, { port, newTokens })
  const { controlUrl, readUrl } = served
  if (json) writeJson(world.stdout, { formatVersion, port: served.port, controlUrl, readUrl, runsFolder: runs.runsFolder })
  else {
    const { bold, dim } = paintFor(world.stdout, world.env)
    world.stdout.write(`runs under ${runs.runsFolder}\n  watch and control  ${bold(controlUrl)}\n  watch only         ${bold(readUrl)}\n`)
    world.stdout.write(`${dim('Ctrl-C ends the page; runs go on.')}\n`)
  }
  await new Promise<void>((resolve) => {
    world.onInterrupt(() => resolve())
  })
  await served.close()
}
