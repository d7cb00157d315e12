import { readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { expect, test } from 'vitest'

const source = join(import.meta.dirname, '..', '..', 'src')

/** What a file loads when it is imported: packages, and files below `src`; types and imports on demand are not. */
function loadedBy(file: string, seen = new Set<string>()): Set<string> {
  const name = relative(source, file)
  if (seen.has(name)) return seen
  seen.add(name)
  for (const [, clause = '', from = ''] of readFileSync(file, 'utf8').matchAll(/^import ([^'"]*)from '([^']+)'/gms)) {
    if (clause.startsWith('type ')) continue
    if (from.startsWith('.')) loadedBy(join(dirname(file), from), seen)
    else if (!from.startsWith('node:')) seen.add(from)
  }
  return seen
}

test('listing weights waits for no package but the header reader, and for nothing that knows runs', () => {
  const loaded = [...loadedBy(join(source, 'cli', 'weights-run.ts'))]
  expect(loaded).toContain('weights/weight-set.ts')
  expect(loaded.filter((name) => !name.endsWith('.ts'))).toEqual(['safetensors'])
  expect(loaded.filter((name) => /^(runs|store|config|bridge|domain\/stage)\//.test(name))).toEqual([])
})
