import { parametersOf, type WeightSet } from './weight-set.ts'

/** Levels that are told apart: names come from files and may have any number of dots. */
export const deepestModule = 64

/** A module with everything below it, or a tensor where it has no children. */
export interface TreeNode {
  /** Last part of the name. */
  readonly label: string
  readonly name: string
  readonly tensors: number
  readonly parameters: number
  readonly bytes: number
  /** Dtype to bytes. */
  readonly dtypes: Readonly<Record<string, number>>
  /** Only of a tensor. */
  readonly shape: readonly number[] | undefined
  readonly children: readonly TreeNode[]
}

interface Growing {
  readonly label: string
  readonly name: string
  tensors: number
  parameters: number
  bytes: number
  readonly dtypes: Map<string, number>
  shape: readonly number[] | undefined
  readonly children: Map<string, Growing>
}

/** Tensors as a tree by the dots in their names, `depth` levels deep and at most 64, with totals in every module. Shapes stand at the leaves. */
export function moduleTree(set: Pick<WeightSet, 'tensors'>, depth = deepestModule): TreeNode {
  const root = grown('', '')
  const levels = Math.min(depth, deepestModule)
  let last = root
  for (const [name, { dtype, shape, begin, end }] of set.tensors) {
    const place = prefixOf(name, levels)
    const node = place === last.name && last !== root ? last : grownIn(root, place)
    last = node
    if (place === name) node.shape = shape
    node.tensors += 1
    node.parameters += parametersOf(shape)
    node.bytes += end - begin
    node.dtypes.set(dtype, (node.dtypes.get(dtype) ?? 0) + end - begin)
  }
  return finished(root)
}

/** A name up to its dot number `depth`, or all of it. */
function prefixOf(name: string, depth: number): string {
  let dot = -1
  for (let level = 0; level < depth; level += 1) {
    dot = name.indexOf('.', dot + 1)
    if (dot === -1) return name
  }
  return name.slice(0, dot)
}

function grownIn(root: Growing, name: string): Growing {
  let node = root
  for (let start = 0; ; ) {
    const dot = name.indexOf('.', start)
    node = childOf(node, name, start, dot === -1 ? name.length : dot)
    if (dot === -1) return node
    start = dot + 1
  }
}

function childOf(node: Growing, name: string, start: number, stop: number): Growing {
  const label = name.slice(start, stop)
  const known = node.children.get(label)
  if (known !== undefined) return known
  const child = grown(label, name.slice(0, stop))
  node.children.set(label, child)
  return child
}

function grown(label: string, name: string): Growing {
  return { label, name, tensors: 0, parameters: 0, bytes: 0, dtypes: new Map(), shape: undefined, children: new Map() }
}

/** A node with what lies below it added to its own tensors. */
function finished(node: Growing): TreeNode {
  const children = [...node.children.values()].map(finished)
  for (const child of children) {
    node.tensors += child.tensors
    node.parameters += child.parameters
    node.bytes += child.bytes
    for (const [dtype, bytes] of Object.entries(child.dtypes)) node.dtypes.set(dtype, (node.dtypes.get(dtype) ?? 0) + bytes)
  }
  return { ...node, dtypes: Object.fromEntries(node.dtypes), children }
}
