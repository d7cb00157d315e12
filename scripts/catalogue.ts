import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { stringify } from 'yaml'
import { defaultStage, stageFields, valueAt } from '../src/domain/stage/fields.ts'
import type { Stage } from '../src/domain/stage/schema.ts'
import { generatedScript, type LaunchRecord } from '../src/upstream/generated-script.ts'
import { importScript } from '../src/upstream/import.ts'
import type { FlagValue } from '../src/upstream/trainer.ts'

/*
 * Writes the catalogue of upstream's stages, configs/upstream, and the launches its test imports, from a survey of upstream's history:
 *   npx tsx scripts/catalogue.ts SURVEY.json
 * Every record of the survey that has a script becomes one file with one stage, which shows what changed against the stage it starts from.
 */

interface Surveyed {
  readonly id: string
  readonly version: string
  readonly family: string
  readonly stage: string
  readonly script: string | null
  readonly source_kind: string
  readonly trainer: string
  readonly launcher:
    | ({ type: string; cli?: Record<string, FlagValue>; config?: LauncherFile; num_processes?: number; nodes?: number } & MegatronLaunch)
    | null
  readonly env?: Record<string, FlagValue>
  readonly args: Record<string, unknown>
  readonly init_from_stage?: string | null
  readonly reported?: Record<string, unknown>
  readonly notes?: readonly string[]
  readonly confidence: string
  readonly matching_script_records?: readonly string[]
}

/** Variables of a Megatron script that its arguments are computed from. */
interface MegatronLaunch {
  readonly tp?: number
  readonly cp?: number
  readonly micro_batch_size?: number
  readonly grad_acc?: number
}

interface LauncherFile {
  readonly file?: string
  readonly deepspeed?: { file?: string } & Record<string, unknown>
  readonly [name: string]: unknown
}

/** The stages of each release's main chain, in the order they were trained. */
const mainChains: Readonly<Record<string, readonly string[]>> = {
  'v1.0': ['v1.0.0-t2v-1-17x256x256', 'v1.0.0-t2v-2-65x256x256', 'v1.0.0-t2v-3-65x512x512'],
  'v1.1': ['v1.1.0-t2v-1-65x512x512', 'v1.1.0-t2v-2-221x512x512', 'v1.1.0-t2v-3-513x512x512'],
  'v1.2': ['v1.2.0-t2v-npu-1-image480p', 'v1.2.0-t2v-npu-2-video-nx480p', 'v1.2.0-t2v-npu-3-video-nx720p'],
  'v1.3': ['v1.3-h05-image-newmodel-lr5e-5', 'v1.3-h08-video-93x320-wfvae', 'v1.3.1-t2v-npu'],
  'v1.5': ['v1.5-megatron-57x288x512', 'v1.5-megatron-121x576x1024', 'v1.5-megatron-121x576x1024-hq'],
}

const [survey] = process.argv.slice(2)
if (survey === undefined) throw new Error('usage: npx tsx scripts/catalogue.ts SURVEY.json')
const records = JSON.parse(readFileSync(survey, 'utf8')) as Surveyed[]
const root = new URL('../configs/upstream/', import.meta.url)
const fixture = new URL('../test/fixtures/upstream/launches.json', import.meta.url)

interface Entry {
  readonly record: Surveyed
  readonly address: string
  readonly launch: LaunchRecord
  readonly files: Readonly<Record<string, string>>
  readonly stage: Stage
  readonly trainer: string
}

const entries = records.flatMap((record) => entryOf(record) ?? [])
const byId = new Map(entries.map((entry) => [entry.record.id, entry]))
rmSync(root, { recursive: true, force: true })
for (const entry of entries) writeEntry(entry)
mkdirSync(new URL('.', fixture), { recursive: true })
const launches = entries.map(
  ({ address, launch, files, trainer }) => `${JSON.stringify(address)}: ${JSON.stringify({ trainer, launch, files })}`,
)
writeFileSync(fixture, `{\n${launches.join(',\n')}\n}\n`)
process.stdout.write(`${entries.length} stages\n`)

function addressOf({ id }: Surveyed): string {
  for (const [version, chain] of Object.entries(mainChains)) {
    const place = chain.indexOf(id)
    if (place !== -1) return `${version}/t2v-${place + 1}`
  }
  const [, version = 'v1.2', name = id] = /^(v\d+(?:\.\d+)+)-(.+)$/.exec(id) ?? []
  return `${version}/${name}`
}

function entryOf(record: Surveyed): Entry | undefined {
  if (record.script === null || record.launcher === null) return undefined
  const { launch, files } = launchOf(record)
  const address = addressOf(record)
  const tag = record.script.split('@')[1] ?? ''
  const version = /^v\d/.test(tag) ? tag : undefined
  const [imported] = importScript(generatedScript(launch), {
    file: `${address}.sh`,
    trainer: version ?? record.version,
    readFile: (path) => files[path],
  })
  if (!imported) {
    process.stderr.write(`${record.id}: no trainer is known for ${record.trainer}\n`)
    return undefined
  }
  const stage = { ...imported.stage, name: address.replace(/^.*\//, '') }
  return { record, address, launch, files, stage, trainer: imported.version }
}

function launchOf(record: Surveyed): { launch: LaunchRecord; files: Record<string, string> } {
  const { launcher, args, env = {} } = record
  const shell = (args.shell ?? args) as Record<string, FlagValue>
  const files: Record<string, string> = {}
  const config = launcher?.config
  const options: Record<string, FlagValue> = { ...(launcher?.cli ?? {}) }
  delete options.CUDA_VISIBLE_DEVICES
  if (config?.file !== undefined) {
    const { deepspeed, zero_stage: _stage, file, ...content } = config
    options.config_file = file as string
    if (config.num_processes !== undefined) files[file as string] = stringify(content)
    if (deepspeed?.file !== undefined) {
      const { file: named, ...json } = deepspeed
      files[named] = JSON.stringify(json)
    }
  }
  for (const [name, key] of [
    ['model', 'mm-model'],
    ['data', 'mm-data'],
  ] as const) {
    const path = (args.shell as Record<string, string> | undefined)?.[key]
    if (typeof path === 'string' && args[name] !== undefined) files[path] = JSON.stringify(args[name])
  }
  const type = launcher?.type ?? 'python'
  const kind = type.startsWith('torchrun') ? 'torchrun' : type
  if (launcher?.nodes !== undefined) Object.assign(options, { nnodes: launcher.nodes, nproc_per_node: 8 })
  const kept = Object.fromEntries(Object.entries(env).filter(([name]) => !/key|token|secret/i.test(name)))
  const environment = { ...kept, ...megatronVariables(launcher) }
  return { launch: { trainer: record.trainer, launcher: kind, launcherOptions: options, environment, arguments: shell }, files }
}

function megatronVariables(launcher: Surveyed['launcher']): Record<string, number> {
  if (launcher?.grad_acc === undefined) return {}
  const { nodes = 1, tp = 1, cp = 1, micro_batch_size: micro = 1, grad_acc: steps } = launcher
  return { NUM_NPUS: 8 * nodes, WORLD_SIZE: 8 * nodes, TP: tp, CP: cp, MBS: micro, GRAD_ACC_STEP: steps }
}

function parentOf({ record, address }: Entry): Entry | undefined {
  const [version = '', name = ''] = address.split('/')
  const [, place] = /^t2v-(\d)$/.exec(name) ?? []
  const before = place === undefined ? undefined : mainChains[version]?.[Number(place) - 2]
  const parent = byId.get(before ?? record.init_from_stage ?? '')
  return parent && parent.stage.kind === byId.get(record.id)?.stage.kind ? parent : undefined
}

function writeEntry(entry: Entry): void {
  const { record, address, stage } = entry
  const parent = parentOf(entry)
  const base = parent?.stage ?? defaultStage(stage.name)
  const file = new URL(`${address}.yaml`, root)
  const name = stage.name
  const written = {
    formatVersion: 1,
    name,
    notes: record.stage,
    stages: [
      {
        name,
        ...(parent ? { extends: `${relative(address, parent.address)}#${parent.stage.name}` } : {}),
        provenance: provenanceOf(entry, parent),
        ...changedSettings(base, stage),
      },
    ],
  }
  mkdirSync(dirname(file.pathname), { recursive: true })
  writeFileSync(file, stringify(written, { lineWidth: 140, aliasDuplicateObjects: false }))
}

function relative(from: string, to: string): string {
  const [folder] = from.split('/')
  const [other, name] = to.split('/')
  return folder === other ? `${name}.yaml` : `../${to}.yaml`
}

function provenanceOf(entry: Entry, parent: Entry | undefined) {
  const { record, trainer } = entry
  const reports = records.filter(({ matching_script_records: matching, script }) => script === null && matching?.includes(record.id))
  const reported = [record.reported ?? {}, ...reports.map((report) => report.reported ?? {})].filter(
    (report) => Object.keys(report).length > 0,
  )
  return {
    script: record.script,
    source: record.source_kind,
    trainer,
    confidence: record.confidence,
    chain: `${record.version} ${record.family}`,
    ...(parent ? { after: parent.address } : record.init_from_stage ? { after: record.init_from_stage } : {}),
    ...(record.notes?.length ? { notes: record.notes } : {}),
    ...(reported.length > 0 ? { report: reported.length === 1 ? reported[0] : reported } : {}),
    ...disagreementsOf(entry.stage, reported),
  }
}

/** Where the report and the script name different numbers for one thing. */
function disagreementsOf(stage: Stage, reported: readonly Record<string, unknown>[]) {
  const globalBatch = stage.batch.perDevice * stage.batch.accumulate * stage.parallel.nodes * stage.parallel.processes
  const facts: readonly [string, string, number][] = [
    ['lr', 'learningRate', stage.learningRate],
    ['batch', 'batch.perDevice', globalBatch],
    ['steps', 'steps', stage.steps],
  ]
  const found = reported.flatMap((report) =>
    facts.flatMap(([key, path, script]) =>
      typeof report[key] === 'number' && report[key] !== script ? [{ path, report: report[key], script }] : [],
    ),
  )
  const distinct = [...new Map(found.map((each) => [JSON.stringify(each), each])).values()]
  return distinct.length > 0 ? { disagreements: distinct } : {}
}

/** The settings that differ, nested as a recipe writes them. */
function changedSettings(base: Stage, stage: Stage): Record<string, unknown> {
  const tree: Record<string, unknown> = {}
  for (const path of stageFields().keys()) {
    if (path === 'name') continue
    const value = valueAt(stage, path)
    if (JSON.stringify(value) === JSON.stringify(valueAt(base, path))) continue
    const names = path.split('.')
    const last = names.pop() ?? ''
    const parent = names.reduce<Record<string, unknown>>((node, name) => {
      node[name] ??= {}
      return node[name] as Record<string, unknown>
    }, tree)
    parent[last] = value
  }
  return tree
}
