import fc from 'fast-check'
import { expect, test } from 'vitest'
import { type LineageNode, type LineageTree, lineageTrees, treeWith } from '../../../src/domain/run/lineage.ts'

const outline = (trees: readonly LineageTree<LineageNode>[]): string =>
  trees.map(({ node, children }) => `${node.id}${children.length > 0 ? `(${outline(children)})` : ''}`).join(' ')
const idsIn = (trees: readonly LineageTree<LineageNode>[]): string[] => trees.flatMap(({ node, children }) => [node.id, ...idsIn(children)])

test('runs hang below those they start from; one whose parent is gone is a root', () => {
  const nodes = [
    { id: 'a', parent: undefined },
    { id: 'b', parent: 'a' },
    { id: 'c', parent: 'b' },
    { id: 'd', parent: 'a' },
    { id: 'e', parent: 'deleted' },
  ]
  expect(outline(lineageTrees(nodes))).toBe('a(b(c) d) e')
  const tree = treeWith('c', nodes)
  expect(tree && outline([tree])).toBe('a(b(c) d)')
  expect(treeWith('deleted', nodes)).toBeUndefined()
})

test('whatever parents runs name, circles too, each run is in the answer exactly once', () => {
  const names = ['a', 'b', 'c', 'd', 'e', 'f']
  const parents = fc.tuple(...names.map(() => fc.option(fc.constantFrom(...names, 'gone'), { nil: undefined })))
  fc.assert(
    fc.property(parents, (chosen) => {
      const nodes = names.map((id, index) => ({ id, parent: chosen[index] }))
      expect(idsIn(lineageTrees(nodes)).sort()).toEqual(names)
    }),
  )
})
