import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { dirname, isAbsolute, join, relative, resolve } from 'node:path'
import { UserError } from '../domain/errors.ts'
import { resolveSide } from '../runs/addresses.ts'
import { type ExportedStage, exportStage } from '../upstream/export.ts'
import { runsFolderOf, upstreamCheckoutOf } from './folders.ts'
import { type World, writeJson } from './terminal.ts'

export interface ExportArguments {
  stage: string
  to: string
  json: boolean
  output: string | undefined
  upstream: string | undefined
}

/** Prints the launch command; what that version has no flag for is named on the error output. */
export async function runExport({ stage, to, json, output, upstream }: ExportArguments, world: World): Promise<void> {
  const [, version] = /^upstream@(.+)$/.exec(to) ?? []
  if (version === undefined) {
    throw new UserError('EXPORT_TARGET', `--to ${to}: expected upstream@VERSION, got another form`, {
      hint: 'for example --to upstream@v1.3.1',
    })
  }
  const context = { cwd: world.cwd, runsFolder: runsFolderOf(undefined, world), upstreamCheckout: upstreamCheckoutOf(upstream, world) }
  const side = await resolveSide(stage, context)
  const exported = exportStage(side.stage, version)
  const { script, dropped, trainer } = exported
  const files = Object.fromEntries(exported.files)
  if (json) writeJson(world.stdout, { formatVersion: 1, version: trainer.version, script, files, dropped })
  else if (output === undefined) {
    world.stdout.write(script)
    for (const name of exported.files.keys()) world.stderr.write(`it reads ${name}: --output FOLDER writes that too\n`)
  } else for (const path of writeExport(resolve(world.cwd, output), exported)) world.stdout.write(`wrote ${path}\n`)
  if (!json && dropped.length > 0) world.stderr.write(`${trainer.path} at ${trainer.version} has no flag for: ${dropped.join(', ')}\n`)
}

/** Writes the command and its files below a folder, nothing over a file that is there. Raises UserErrors OUTPUT_EXISTS and EXPORT_PATH. */
function writeExport(folder: string, { script, files }: ExportedStage): string[] {
  const wanted = [...files, ['launch.sh', script] as const].map(([name, text]) => [join(folder, name), text, name] as const)
  for (const [path, , name] of wanted) {
    if (isAbsolute(name) || /[$`~]/.test(name) || relative(folder, path).startsWith('..')) {
      throw new UserError('EXPORT_PATH', `${name}: expected a path below the folder, got one that leads elsewhere`, {
        hint: 'set upstream.mm-model and upstream.mm-data to plain relative paths, or take the texts from --json',
      })
    }
    if (existsSync(path)) throw new UserError('OUTPUT_EXISTS', `${path}: expected no such file, got one`, { hint: 'name another folder' })
  }
  for (const [path, text] of wanted) {
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(path, text, { flag: 'wx' })
  }
  return wanted.map(([path]) => path)
}
