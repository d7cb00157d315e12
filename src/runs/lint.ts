import { stageFindings } from '../domain/findings/stage-findings.ts'
import { areTwins, twinFindings } from '../domain/findings/twin-rules.ts'
import type { Finding, Severity, StageSide } from '../domain/stage/origin.ts'
import { type Lineage, lineageFindings, lineageOf } from '../upstream/lineage.ts'
import { parseAddress } from './address.ts'
import { type AddressContext, resolveSides } from './addresses.ts'
import { importedScript } from './import-scripts.ts'

const order: Readonly<Record<Severity, number>> = { error: 0, warn: 1, info: 2 }

/**
 * The findings of stages by their addresses, worst first. A stage is judged against the one it starts from where that is among them: by the
 * folders scripts write and read, by `stage:NAME` or the place in a recipe, by the chain in the catalogue. Two scripts alone are the step from the
 * first to the second, unless they are twins for two kinds of hardware.
 */
export async function lint(addresses: readonly string[], context: AddressContext): Promise<readonly Finding[]> {
  const groups = await Promise.all(addresses.map((address) => sidesOrFindings(address, context)))
  const sides = groups.flatMap((group) => group.sides)
  const scripts = groups.filter(({ kind }) => kind === 'script').flatMap((group) => group.sides)
  const lineage = lineageOf(scripts)
  const judged = await Promise.all(
    groups.flatMap(({ kind, sides: own }) =>
      own.map(async (side, place) => {
        if (kind === 'script') return scriptFindings(side, scripts, lineage)
        return stageFindings(side, kind === 'catalogue' ? await publishedParent(side) : recipeParent(own, place))
      }),
    ),
  )
  const found = [
    ...groups.flatMap(({ findings }) => findings),
    ...sides.flatMap(({ findings }) => findings),
    ...judged.flat(),
    ...(scripts.length > 1 ? lineageFindings(lineage, scripts) : []),
    ...differingTwins(scripts),
  ]
  return distinct(found).toSorted((a, b) => order[a.severity] - order[b.severity])
}

/** Judged against the script whose folder it starts from, else against the one before where there are two; then that is not held against its init. */
function scriptFindings(side: StageSide, scripts: readonly StageSide[], { edges }: Lineage): readonly Finding[] {
  const edge = edges.find(({ to }) => to === side.label)
  if (edge)
    return stageFindings(
      side,
      scripts.find(({ label }) => label === edge.from),
    )
  const [first, second] = scripts
  const before = first && side === second && scripts.length === 2 && isStep(first, second) ? first : undefined
  return stageFindings(side, before).filter(({ rule, severity }) => rule !== 'init-not-parent' || severity !== 'error')
}

function isStep(first: StageSide, second: StageSide): boolean {
  return first.stage.kind === second.stage.kind && !areTwins(first, second)
}

function differingTwins(scripts: readonly StageSide[]): Finding[] {
  return scripts.flatMap((side, place) =>
    scripts
      .slice(place + 1)
      .filter((other) => areTwins(side, other))
      .flatMap((other) => twinFindings(side, other)),
  )
}

interface Group {
  readonly kind: 'recipe' | 'script' | 'catalogue' | 'other'
  readonly sides: readonly StageSide[]
  readonly findings: readonly Finding[]
}

async function sidesOrFindings(address: string, context: AddressContext): Promise<Group> {
  const parsed = parseAddress(address)
  if (parsed.kind === 'script' || parsed.kind === 'upstream script') {
    const { stages, findings } = importedScript(parsed, address, context)
    return { kind: 'script', sides: stages, findings }
  }
  const kind = parsed.kind === 'recipe' || parsed.kind === 'catalogue' ? parsed.kind : 'other'
  return { kind, sides: await resolveSides(address, context), findings: [] }
}

/** Within a recipe: the stage named by `stage:NAME`, else the one above of the same kind. */
/** The stage of a recipe that another of it starts from. */
export function recipeParent(sides: readonly StageSide[], place: number): StageSide | undefined {
  const earlier = sides.slice(0, place)
  const side = sides[place]
  const [, name] = /^stage:(.+)$/.exec(side?.stage.init.weights ?? '') ?? []
  if (name !== undefined) return earlier.find(({ stage }) => stage.name === name)
  return side?.stage.init.weights === null ? undefined : earlier.findLast(({ stage }) => stage.kind === side?.stage.kind)
}

async function publishedParent(side: StageSide): Promise<StageSide | undefined> {
  const { catalogueParent, catalogueStage } = await import('./catalogue.ts')
  return catalogueParent(catalogueStage(side.label))
}

function distinct(findings: readonly Finding[]): Finding[] {
  return [...new Map(findings.map((finding) => [JSON.stringify([finding.rule, finding.where, finding.message]), finding])).values()]
}
