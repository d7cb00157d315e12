import { stageFields, valueAt } from '../domain/stage/fields.ts'
import { valueText } from '../domain/stage/value-text.ts'
import { importScripts } from '../runs/import-scripts.ts'
import type { ImportedStage } from '../upstream/imported-stage.ts'
import { type Lineage, lineageOf } from '../upstream/lineage.ts'
import { findingLines } from './diff-text.ts'
import { runsFolderOf, upstreamCheckoutOf } from './folders.ts'
import { paintFor, printable, table, type World, widthOf, writeJson, writeLines } from './terminal.ts'

export interface ImportArguments {
  scripts: string[]
  json: boolean
  lineage: boolean
  trainer: string | undefined
  upstream: string | undefined
}

const formatVersion = 1

/** Prints imported stages, or which starts from which. Exit code 1 where a finding is an error or a hand-off is broken. */
export async function runImport(args: ImportArguments, world: World): Promise<void> {
  const context = { cwd: world.cwd, runsFolder: runsFolderOf(undefined, world), upstreamCheckout: upstreamCheckoutOf(args.upstream, world) }
  const imports = importScripts(args.scripts, context, args.trainer)
  if (args.lineage) {
    const lineage = lineageOf(imports)
    world.setExitCode(lineage.broken.length > 0 ? 1 : 0)
    if (args.json) writeJson(world.stdout, { formatVersion, ...lineage })
    else writeLines(world.stdout, lineageLines(lineage))
    return
  }
  world.setExitCode(imports.some(({ findings }) => findings.some(({ severity }) => severity === 'error')) ? 1 : 0)
  if (args.json) writeJson(world.stdout, { formatVersion, imports: imports.map(jsonOf) })
  else
    writeLines(
      world.stdout,
      imports.flatMap((stage) => stageLines(stage, world)),
    )
}

function jsonOf({ script, version, stage, origins, findings }: ImportedStage) {
  return { script, version, stage, origins: Object.fromEntries(origins), findings }
}

function stageLines(imported: ImportedStage, world: World): string[] {
  const { stage, origins, version, script, findings } = imported
  const given = [...stageFields().keys()].filter((path) => ['script', 'environment'].includes(origins.get(path)?.layer ?? ''))
  const rows = given.map((path) => {
    const { line, name } = origins.get(path) ?? {}
    return [path, printable(valueText(valueAt(stage, path))), `${name ?? ''}${line === undefined ? '' : `, line ${line}`}`]
  })
  const paint = paintFor(world.stdout, world.env)
  const rest = `${stageFields().size - given.length} settings by the defaults of ${version}; ${Object.keys(stage.upstream).length} flags without a field`
  return [
    paint.bold(`${printable(script)} (${version}) ${stage.name}`),
    ...table(rows, '  '),
    rest,
    ...findingLines(findings, { paint, columns: widthOf(world.stdout) }),
    '',
  ]
}

function lineageLines({ edges, broken, nodes }: Lineage): string[] {
  return [
    ...edges.map(({ from, to, by }) => `${from} → ${to} (${by})`),
    ...nodes.filter(({ id }) => !edges.some(({ to }) => to === id)).map(({ id, init }) => `${id} starts from ${init ?? 'random weights'}`),
    ...broken.map(({ message }) => `broken: ${message}`),
  ].map(printable)
}
