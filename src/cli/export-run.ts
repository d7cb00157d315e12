import { UserError } from '../domain/errors.ts'
import { resolveSide } from '../runs/addresses.ts'
import { exportStage } from '../upstream/export.ts'
import { runsFolderOf, upstreamCheckoutOf } from './folders.ts'
import { type World, writeJson } from './terminal.ts'

export interface ExportArguments {
  stage: string
  to: string
  json: boolean
  upstream: string | undefined
}

/** Prints the launch command; what that version has no flag for is named on the error output. */
export async function runExport({ stage, to, json, upstream }: ExportArguments, world: World): Promise<void> {
  const [, version] = /^upstream@(.+)$/.exec(to) ?? []
  if (version === undefined) {
    throw new UserError('EXPORT_TARGET', `--to ${to}: expected upstream@VERSION, got another form`, {
      hint: 'for example --to upstream@v1.3.1',
    })
  }
  const context = { cwd: world.cwd, runsFolder: runsFolderOf(undefined, world), upstreamCheckout: upstreamCheckoutOf(upstream, world) }
  const side = await resolveSide(stage, context)
  const { script, dropped, trainer } = exportStage(side.stage, version)
  if (json) writeJson(world.stdout, { formatVersion: 1, version: trainer.version, script, dropped })
  else world.stdout.write(script)
  if (!json && dropped.length > 0) world.stderr.write(`${trainer.path} at ${trainer.version} has no flag for: ${dropped.join(', ')}\n`)
}
