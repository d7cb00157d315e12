import { claimsOfName } from '../domain/findings/name-rules.ts'
import type { Finding, StageSide } from '../domain/stage/origin.ts'

export interface LineageNode {
  readonly id: string
  readonly output: string | null
  readonly init: string | null
}

/** `to` starts from what `from` writes; `in place`: both train in one folder, one after the other. */
export interface LineageEdge {
  readonly from: string
  readonly to: string
  readonly by: 'weights' | 'in place'
}

export interface Broken {
  readonly node: string
  readonly init: string
  readonly message: string
}

export interface Lineage {
  readonly nodes: readonly LineageNode[]
  readonly edges: readonly LineageEdge[]
  readonly broken: readonly Broken[]
}

/** Which stage starts from which, by the folders they write and read. Sides in the order they were trained, as far as that is known. */
export function lineageOf(sides: readonly StageSide[]): Lineage {
  const nodes = sides.map(({ label, stage }) => ({ id: label, output: stage.output, init: stage.init.weights }))
  const edges: LineageEdge[] = []
  const broken: Broken[] = []
  for (const [place, side] of sides.entries()) {
    const { weights, continueFrom } = side.stage.init
    const writer = weights === null ? undefined : writerOf(weights, side, sides)
    const before =
      continueFrom === null ? undefined : sides.slice(0, place).findLast(({ stage }) => sameFolder(stage.output, side.stage.output))
    if (before) edges.push({ from: before.label, to: side.label, by: 'in place' })
    else if (writer) edges.push({ from: writer.label, to: side.label, by: 'weights' })
    else if (weights !== null && namesRunFolder(weights)) {
      const message = `${side.label}: expected ${weights} to be written by one of these stages, got none that does`
      broken.push({ node: side.label, init: weights, message })
    }
  }
  return { nodes, edges, broken }
}

/** The stage whose output folder the weights lie in; of several the one with the longest name. */
function writerOf(weights: string, reader: StageSide, sides: readonly StageSide[]): StageSide | undefined {
  const segments = weights.split('/')
  const writers = sides.filter(
    (side) => side !== reader && isTelling(side.stage.output) && segments.includes(folderName(side.stage.output)),
  )
  return writers.toSorted((a, b) => folderName(b.stage.output).length - folderName(a.stage.output).length)[0]
}

function folderName(output: string | null): string {
  return (output ?? '').replace(/\/+$/, '').replace(/^.*\//, '')
}

/** Whether a folder's name tells it from others: not `debug`, and no variable the environment gives. */
function isTelling(output: string | null): boolean {
  return folderName(output).length > 5 && !folderName(output).includes('$')
}

function sameFolder(a: string | null, b: string | null): boolean {
  return a === b && isTelling(a)
}

/** Whether a path lies in the folder of a run: it names a checkpoint, or it is relative and has a folder. */
function namesRunFolder(path: string): boolean {
  return (
    /(?:^|\/)checkpoint-\d+(?:\/|$)/.test(path) ||
    (/^[^/$.~][^/]*\/.+\.(?:safetensors|pt|ckpt)$/.test(path) && !/^[\w-]+\/[\w.-]+$/.test(path.replace(/\/[^/]*$/, '')))
  )
}

/**
 * Broken hand-offs as findings, each at the flag that names the weights. An error where the scripts are a chain, and where one of them is the
 * stage that the folder's name describes and writes elsewhere; among scripts that are only given together it may be that the writer is not here.
 */
export function lineageFindings({ broken, edges }: Lineage, sides: readonly StageSide[]): Finding[] {
  const areChain = edges.length > 0 || sides.length === 2
  return broken.map(({ node, init, message }) => {
    const origin = sides.find(({ label }) => label === node)?.origins.get('init.weights')
    const { file, line, column } = origin ?? {}
    const isCertain = areChain || sides.some((side) => side.label !== node && isDescribed(side, init))
    return {
      rule: 'init-not-written',
      severity: isCertain ? 'error' : 'warn',
      message,
      where: file === undefined || line === undefined ? { path: 'init.weights' } : { file, line, column: column ?? 1 },
      paths: ['init.weights', ...(origin?.name === undefined ? [] : [origin.name]), 'output', 'output_dir'],
      hint: 'point it at the output folder of the stage before, or give that stage’s script too',
    }
  })
}

/** Whether a path of weights names the shape a stage trains. */
function isDescribed({ stage: { shape } }: StageSide, weights: string): boolean {
  const { frames, height } = claimsOfName(weights)
  return frames === shape.frames && (height === undefined || height === shape.height)
}
