import { stageFindings } from '../domain/findings/stage-findings.ts'
import { stageFields, valueAt } from '../domain/stage/fields.ts'
import type { Finding, Origin } from '../domain/stage/origin.ts'
import type { Stage, StagePath } from '../domain/stage/schema.ts'
import { valueText } from '../domain/stage/value-text.ts'
import { type ImportedScript, importScripts } from '../runs/import-scripts.ts'
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

/** Prints imported stages, or which starts from which. Exit code 1 where a finding is an error, a hand-off is broken or no stage was found. */
export async function runImport({ scripts, json, lineage, trainer, upstream }: ImportArguments, world: World): Promise<void> {
  const context = {
    cwd: world.cwd,
    runsFolder: runsFolderOf(undefined, world),
    upstreamCheckout: upstreamCheckoutOf(upstream, world),
    trainer,
  }
  const imports = importScripts(scripts, context)
  const stages = imports.flatMap((script) => script.stages)
  if (lineage) {
    const found = lineageOf(stages)
    world.setExitCode(found.broken.length > 0 ? 1 : 0)
    if (json) writeJson(world.stdout, { formatVersion, ...found })
    else writeLines(world.stdout, lineageLines(found))
    return
  }
  const entries = imports.flatMap(entriesOf)
  const failed = stages.length === 0 || entries.some(({ findings }) => findings.some(({ severity }) => severity === 'error'))
  world.setExitCode(failed ? 1 : 0)
  if (json) writeJson(world.stdout, { formatVersion, imports: entries })
  else
    writeLines(world.stdout, [
      ...stages.flatMap((stage) => stageLines(stage, world)),
      ...imports.flatMap((script) => otherLines(script, world)),
    ])
}

interface ImportEntry {
  readonly script: string
  readonly version: string | null
  readonly stage: Stage | null
  readonly origins: Readonly<Record<StagePath, Origin>>
  readonly findings: readonly Finding[]
}

/** One entry per launch; a script that starts no trainer has one without a stage, so that its findings are told. */
function entriesOf({ script, stages, findings }: ImportedScript): readonly ImportEntry[] {
  if (stages.length === 0) return [{ script, version: null, stage: null, origins: {}, findings }]
  return stages.map((side) => ({
    script: side.script,
    version: side.version,
    stage: side.stage,
    origins: Object.fromEntries(side.origins),
    findings: [...side.findings, ...stageFindings(side)],
  }))
}

function otherLines({ stages, findings }: ImportedScript, world: World): string[] {
  return stages.length > 0 ? [] : findingLines(findings, { paint: paintFor(world.stdout, world.env), columns: widthOf(world.stdout) })
}

function stageLines(imported: ImportedStage, world: World): string[] {
  const { stage, origins, version, script } = imported
  const findings = [...imported.findings, ...stageFindings(imported)]
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
