import { stageFindings } from '../domain/findings/stage-findings.ts'
import { areTwins, twinFindings } from '../domain/findings/twin-rules.ts'
import type { Finding, Severity, StageSide } from '../domain/stage/origin.ts'
import { lineageFindings, lineageOf } from '../upstream/lineage.ts'
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
  const parents = new Map(lineage.edges.map(({ from, to }) => [to, scripts.find(({ label }) => label === from)]))
  const twins = scripts.flatMap((side, place) =>
    scripts
      .slice(place + 1)
      .filter((other) => areTwins(side, other))
      .flatMap((other) => twinFindings(side, other)),
  )
  const [first, second] = scripts
  if (first && second && groups.length === 2 && scripts.length === 2 && parents.size === 0 && isStep(first, second))
    parents.set(second.label, first)
  const judged = await Promise.all(
    groups.flatMap(({ kind, sides: own }) =>
      own.map(async (side, place) => {
        const parent =
          kind === 'script' ? parents.get(side.label) : kind === 'catalogue' ? await publishedParent(side) : recipeParent(own, place)
        return stageFindings(side, parent)
      }),
    ),
  )
  const handOffs = scripts.length > 1 ? lineageFindings(lineage, scripts) : []
  const found = [
    ...groups.flatMap(({ findings }) => findings),
    ...sides.flatMap(({ findings }) => findings),
    ...judged.flat(),
    ...handOffs,
    ...twins,
  ]
  return distinct(found).toSorted((a, b) => order[a.severity] - order[b.severity])
}

function isStep(first: StageSide, second: StageSide): boolean {
  return first.stage.kind === second.stage.kind && !areTwins(first, second)
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
function recipeParent(sides: readonly StageSide[], place: number): StageSide | undefined {
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
