import { UserError } from '../domain/errors.ts'
import { parametersOf } from './weight-set.ts'

type Shapes = ReadonlyMap<string, readonly number[]>

export interface PlannedTensor {
  readonly name: string
  readonly parameters: number
  /** The accept line that allows it; undefined refuses the plan. */
  readonly acceptedBy: string | undefined
}

export interface ReshapedTensor extends PlannedTensor {
  readonly wanted: readonly number[]
  readonly available: readonly number[]
}

/** What loading weights into a model would do, tensor by tensor. */
export interface LoadPlan {
  /** Names that load as they are. */
  readonly exact: readonly string[]
  /** Same name, other shape: starts from new numbers or as the model's own rule says. */
  readonly reshaped: readonly ReshapedTensor[]
  /** In the model, not in the file. */
  readonly missing: readonly PlannedTensor[]
  /** In the file, not in the model. */
  readonly unexpected: readonly PlannedTensor[]
  /** Of the model's parameters. 100 for a model without any. */
  readonly percentExact: number
  /** Parameters of the model. */
  readonly parameters: number
  /** Names that are not exact and that no accept line allows. */
  readonly refused: readonly string[]
  /** Accept lines that allow nothing. */
  readonly unused: readonly string[]
}

/**
 * Compares what a model wants with what weights have. `accept` lines are `missing:GLOB`, `unexpected:GLOB`, `reshaped:GLOB`;
 * `*` stands for any letters, dots included, and `?` for one. Throws UserError ACCEPT_SYNTAX.
 */
export function loadPlan(
  wanted: Shapes,
  available: Shapes | ReadonlyMap<string, { readonly shape: readonly number[] }>,
  accept: readonly string[] = [],
): LoadPlan {
  const lines = accept.map(acceptLine)
  const shapeOf = (name: string) => {
    const found = available.get(name)
    return found !== undefined && 'shape' in found ? found.shape : found
  }
  const allowed = (kind: AcceptKind, name: string) => lines.find((line) => line.kind === kind && line.fits(name))?.text
  const exact: string[] = []
  const reshaped: ReshapedTensor[] = []
  const missing: PlannedTensor[] = []
  for (const [name, shape] of wanted) {
    const found = shapeOf(name)
    const parameters = parametersOf(shape)
    if (found === undefined) missing.push({ name, parameters, acceptedBy: allowed('missing', name) })
    else if (isSameShape(shape, found)) exact.push(name)
    else reshaped.push({ name, parameters, wanted: shape, available: found, acceptedBy: allowed('reshaped', name) })
  }
  const unexpected = [...available.keys()]
    .filter((name) => !wanted.has(name))
    .map((name) => ({ name, parameters: parametersOf(shapeOf(name) ?? []), acceptedBy: allowed('unexpected', name) }))
  const others = [...reshaped, ...missing, ...unexpected]
  const parameters = [...wanted.values()].reduce((sum, shape) => sum + parametersOf(shape), 0)
  const lost = [...reshaped, ...missing].reduce((sum, tensor) => sum + tensor.parameters, 0)
  const used = new Set(others.map(({ acceptedBy }) => acceptedBy))
  return {
    exact,
    reshaped,
    missing,
    unexpected,
    percentExact: parameters === 0 ? 100 : (100 * (parameters - lost)) / parameters,
    parameters,
    refused: others.filter(({ acceptedBy }) => acceptedBy === undefined).map(({ name }) => name),
    unused: accept.filter((line) => !used.has(line)),
  }
}

type AcceptKind = 'missing' | 'unexpected' | 'reshaped'

interface AcceptLine {
  readonly text: string
  readonly kind: AcceptKind
  readonly fits: (name: string) => boolean
}

function acceptLine(text: string): AcceptLine {
  const [, kind, glob] = /^(missing|unexpected|reshaped):(.+)$/s.exec(text) ?? []
  if (kind === undefined || glob === undefined) {
    throw new UserError('ACCEPT_SYNTAX', `accept: expected missing:GLOB, unexpected:GLOB or reshaped:GLOB, got ${text}`, {
      hint: 'for example missing:proj_out.*',
    })
  }
  return { text, kind: kind as AcceptKind, fits: (name) => fitsGlob(glob, name) }
}

/** Linear-time glob with one step back to the last star, so that no pattern from a recipe can hang. */
function fitsGlob(glob: string, name: string): boolean {
  let [place, at, star, resume] = [0, 0, -1, 0]
  while (at < name.length) {
    if (glob[place] === '*') {
      star = place
      resume = at
      place += 1
    } else if (place < glob.length && (glob[place] === '?' || glob[place] === name[at])) {
      place += 1
      at += 1
    } else if (star >= 0) {
      resume += 1
      place = star + 1
      at = resume
    } else return false
  }
  return /^\**$/.test(glob.slice(place))
}

function isSameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((length, place) => length === b[place])
}
