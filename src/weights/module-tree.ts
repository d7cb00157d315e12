import { parametersOf, type WeightSet } from './weight-set.ts'

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

/** Tensors as a tree by the dots in their names, `depth` levels deep, with totals in every module. Shapes stand at the leaves. */
export function moduleTree(set: Pick<WeightSet, 'tensors'>, depth = Number.POSITIVE_INFINITY): TreeNode {
  const root = grown('', '')
  for (const [name, { dtype, shape, begin, end }] of set.tensors) {
    let node = root
    let start = 0
    for (let level = 0; level < depth && start <= name.length; level += 1) {
      const dot = name.indexOf('.', start)
      const stop = dot === -1 ? name.length : dot
      node = childOf(node, name, start, stop)
      start = stop + 1
    }
    if (start > name.length) node.shape = shape
    node.tensors += 1
    node.parameters += parametersOf(shape)
    node.bytes += end - begin
    node.dtypes.set(dtype, (node.dtypes.get(dtype) ?? 0) + end - begin)
  }
  return finished(root)
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
