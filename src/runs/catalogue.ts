import { existsSync, readdirSync } from 'node:fs'
import { dirname, join, sep } from 'node:path'
import { fileURLToPath } from 'node:url'
import { loadRecipe } from '../config/recipe.ts'
import { readConfigFile } from '../config/source.ts'
import { UserError } from '../domain/errors.ts'
import { nearestName } from '../domain/nearest.ts'
import type { Finding, StageSide } from '../domain/stage/origin.ts'
import { type CatalogueEntry, catalogueIndex } from '../upstream/catalogue-index.ts'

/** What is recorded about a published stage beside its settings. */
export interface Provenance {
  readonly script?: string
  readonly source?: string
  readonly trainer?: string
  readonly confidence?: string
  readonly chain?: string
  /** The stage it starts from, by catalogue name or by what is known of it. */
  readonly after?: string
  readonly notes?: readonly string[]
  readonly report?: unknown
  readonly disagreements?: readonly { readonly path: string; readonly report: unknown; readonly script: unknown }[]
}

export interface CatalogueStage extends StageSide {
  readonly provenance: Provenance
  /** Recipe file of the stage, from the root of the package. */
  readonly file: string
}

/** The folder of the catalogue that this program was installed with. */
export function catalogueFolder(): string {
  let folder = dirname(fileURLToPath(import.meta.url))
  while (!existsSync(join(folder, 'configs', 'upstream'))) {
    const above = dirname(folder)
    if (above === folder)
      throw new UserError('CATALOGUE_MISSING', 'configs/upstream: expected the catalogue beside the program, got none', {
        hint: 'install Stagewright again',
      })
    folder = above
  }
  return join(folder, 'configs', 'upstream')
}

/** Every stage of the catalogue by name; `version` leaves those of one release: `v1.3` takes v1.3.0 and v1.3.1 along. */
export function catalogueEntries(folder: string, version?: string): readonly CatalogueEntry[] {
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).map((file) => file.split(sep).join('/'))
  const wanted = version === undefined || version.startsWith('v') ? version : `v${version}`
  return [...catalogueIndex(files).values()].filter(
    (entry) => wanted === undefined || entry.version === wanted || entry.version.startsWith(`${wanted}.`),
  )
}

/** A stage of the catalogue as it was published. Raises UserError CATALOGUE_NAME. */
export function catalogueStage(name: string, folder = catalogueFolder()): CatalogueStage {
  const entries = catalogueEntries(folder)
  const entry = entries.find((each) => each.name === name)
  if (!entry) {
    const near = nearestName(
      name,
      entries.map((each) => each.name),
    )
    throw new UserError('CATALOGUE_NAME', `${name}: expected a stage of the catalogue, got none of that name`, {
      hint: near ? `did you mean ${near}?` : 'stagewright stages lists them',
    })
  }
  const file = `configs/upstream/${entry.file}`
  const readFile = (path: string) => readConfigFile(join(folder, '..', '..', path))
  const side = loadRecipe(file, { refuseMisfits: false, readFile }).stages.find(({ stage }) => stage.name === entry.stage)
  if (!side) throw new Error(`${file} has no stage ${entry.stage}`)
  const provenance = side.provenance as Provenance
  const base = {
    ...side,
    label: name,
    file,
    provenance,
    ...(provenance.trainer === undefined ? {} : { trainerVersion: provenance.trainer }),
  }
  return { ...base, findings: [...side.findings, ...disagreements(provenance)] }
}

/** The stage of the catalogue another one starts from; undefined where it is none of the catalogue. */
export function catalogueParent({ provenance }: CatalogueStage, folder = catalogueFolder()): CatalogueStage | undefined {
  const { after } = provenance
  return after !== undefined && catalogueEntries(folder).some(({ name }) => name === after) ? catalogueStage(after, folder) : undefined
}

function disagreements({ disagreements: found = [] }: Provenance): Finding[] {
  return found.map(({ path, report, script }) => ({
    rule: 'report-disagrees',
    severity: 'warn',
    message: `${path}: the report says ${String(report)}, the script ${String(script)}`,
    where: { path },
    paths: [path],
    hint: 'the script’s value stands here; the report’s is in the provenance',
  }))
}
