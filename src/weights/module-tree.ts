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

/** Tensors as a tree by the dots in their names, with totals in every module. Shapes stand at the leaves. */
export function moduleTree(set: Pick<WeightSet, 'tensors'>): TreeNode {
  const root = grown('', '')
  for (const [name, { dtype, shape, begin, end }] of set.tensors) {
    let node = root
    const parts = name.split('.')
    count(node, dtype, parametersOf(shape), end - begin)
    for (const [place, part] of parts.entries()) {
      const child = node.children.get(part) ?? grown(part, parts.slice(0, place + 1).join('.'))
      node.children.set(part, child)
      node = child
      count(node, dtype, parametersOf(shape), end - begin)
    }
    node.shape = shape
  }
  return finished(root)
}

function grown(label: string, name: string): Growing {
  return { label, name, tensors: 0, parameters: 0, bytes: 0, dtypes: new Map(), shape: undefined, children: new Map() }
}

function count(node: Growing, dtype: string, parameters: number, bytes: number): void {
  node.tensors += 1
  node.parameters += parameters
  node.bytes += bytes
  node.dtypes.set(dtype, (node.dtypes.get(dtype) ?? 0) + bytes)
}

function finished(node: Growing): TreeNode {
  return { ...node, dtypes: Object.fromEntries(node.dtypes), children: [...node.children.values()].map(finished) }
}
