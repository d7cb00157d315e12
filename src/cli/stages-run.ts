import { stringify } from 'yaml'
import { diffStages } from '../domain/diff/stage-diff.ts'
import { UserError } from '../domain/errors.ts'
import { stageFindings } from '../domain/findings/stage-findings.ts'
import { type CatalogueStage, catalogueEntries, catalogueFolder, catalogueParent, catalogueStage } from '../runs/catalogue.ts'
import { trainersOf } from '../upstream/trainer.ts'
import { diffLines, findingLines } from './diff-text.ts'
import { paintFor, table, type World, widthOf, writeJson, writeLines } from './terminal.ts'

export interface StagesArguments {
  action: string | undefined
  name: string | undefined
  trainer: string | undefined
  json: boolean
}

const formatVersion = 1

/** Lists the catalogue, or explains one stage of it. */
export function runStages({ action, name, trainer, json }: StagesArguments, world: World): void {
  if (action === 'show') {
    if (name === undefined) throw new UserError('STAGES_NAME', 'stages show: expected a name, got none', { hint: 'for example v1.3/t2v-3' })
    show(catalogueStage(name), json, world)
    return
  }
  list(trainer, json, world)
}

function list(trainer: string | undefined, json: boolean, world: World): void {
  if (trainer !== undefined) trainersOf(trainer)
  const stages = catalogueEntries(catalogueFolder(), trainer).map(({ name }) => catalogueStage(name))
  if (json) {
    const rows = stages.map(({ label, file, stage, provenance }) => ({ name: label, file, kind: stage.kind, provenance }))
    writeJson(world.stdout, { formatVersion, stages: rows })
    return
  }
  const rows = stages.map(({ label, stage, provenance }) => {
    const { frames, height, width } = stage.shape
    return [label, stage.kind, `${frames}×${height}×${width}`, String(stage.learningRate), provenance.trainer ?? '', provenance.after ?? '']
  })
  const paint = paintFor(world.stdout, world.env)
  writeLines(world.stdout, [
    ...table([['stage', 'kind', 'shape', 'rate', 'trainer', 'after'].map(paint.bold), ...rows]),
    `${rows.length} stages`,
  ])
}

function show(side: CatalogueStage, json: boolean, world: World): void {
  const parent = catalogueParent(side)
  const findings = [...side.findings, ...stageFindings(side, parent)]
  if (json) {
    writeJson(world.stdout, {
      formatVersion,
      name: side.label,
      file: side.file,
      provenance: side.provenance,
      after: parent?.label ?? null,
      stage: side.stage,
      findings,
    })
    return
  }
  const style = { paint: paintFor(world.stdout, world.env), columns: widthOf(world.stdout) }
  const head = [
    style.paint.bold(`${side.label} (${side.file})`),
    ...stringify(side.provenance)
      .trimEnd()
      .split('\n')
      .map((line) => `  ${line}`),
    '',
  ]
  const change = parent ? diffLines({ ...diffStages(parent, side), findings: [] }, style) : []
  writeLines(world.stdout, [...head, ...change, ...findingLines(findings, style)])
}
