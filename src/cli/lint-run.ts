import { lint } from '../runs/lint.ts'
import { findingLines } from './diff-text.ts'
import { runsFolderOf, upstreamCheckoutOf } from './folders.ts'
import { paintFor, type World, widthOf, writeJson, writeLines } from './terminal.ts'

export interface LintArguments {
  addresses: string[]
  json: boolean
  runs: string | undefined
  trainer: string | undefined
  upstream: string | undefined
}

/** Prints the findings and sets the exit code: 1 where there is an error. */
export async function runLint({ addresses, json, runs, trainer, upstream }: LintArguments, world: World): Promise<void> {
  const context = { cwd: world.cwd, runsFolder: runsFolderOf(runs, world), upstreamCheckout: upstreamCheckoutOf(upstream, world), trainer }
  const findings = await lint(addresses, context)
  world.setExitCode(findings.some(({ severity }) => severity === 'error') ? 1 : 0)
  if (json) writeJson(world.stdout, { formatVersion: 1, findings })
  else if (findings.length === 0) writeLines(world.stdout, ['nothing found'])
  else writeLines(world.stdout, findingLines(findings, { paint: paintFor(world.stdout, world.env), columns: widthOf(world.stdout) }))
}
