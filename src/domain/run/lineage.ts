/** One run in a tree of runs: what it is called, which one it starts from, at which step. */
export interface LineageNode {
  readonly id: string
  readonly parent: string | undefined
}

/** A run with those that start from it. */
export interface LineageTree<Node extends LineageNode> {
  readonly node: Node
  readonly children: readonly LineageTree<Node>[]
}

/**
 * The trees of runs: a run hangs below the one it starts from; one whose parent is not there is a root. Runs that name each other in a
 * circle, which only a damaged folder can, are roots too, so that every run is in the answer once.
 */
export function lineageTrees<Node extends LineageNode>(nodes: readonly Node[]): LineageTree<Node>[] {
  const byId = new Map(nodes.map((node) => [node.id, node]))
  const roots = nodes.filter((node) => rootOf(node, byId).id === node.id)
  return roots.map((root) => treeOf(root, nodes, new Set([root.id])))
}

/** The tree that holds a run. */
export function treeWith<Node extends LineageNode>(id: string, nodes: readonly Node[]): LineageTree<Node> | undefined {
  const byId = new Map(nodes.map((node) => [node.id, node]))
  const node = byId.get(id)
  if (!node) return undefined
  const root = rootOf(node, byId)
  return treeOf(root, nodes, new Set([root.id]))
}

function rootOf<Node extends LineageNode>(node: Node, byId: ReadonlyMap<string, Node>): Node {
  const seen = [node]
  for (;;) {
    const [current] = seen.slice(-1)
    const parent = current?.parent === undefined ? undefined : byId.get(current.parent)
    if (!current || !parent) return current ?? node
    // A circle: its first run in order stands for all.
    if (seen.includes(parent)) return seen.slice(seen.indexOf(parent)).reduce((first, next) => (next.id < first.id ? next : first))
    seen.push(parent)
  }
}

function treeOf<Node extends LineageNode>(node: Node, nodes: readonly Node[], above: ReadonlySet<string>): LineageTree<Node> {
  const children = nodes.filter(({ id, parent }) => parent === node.id && !above.has(id))
  return { node, children: children.map((child) => treeOf(child, nodes, new Set([...above, child.id]))) }
}
