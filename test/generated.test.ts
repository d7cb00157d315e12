import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { generatedFiles } from '../scripts/generate.ts'

const root = join(import.meta.dirname, '..')

describe('generated files', () => {
  test.each(Object.entries(generatedFiles()))('%s is what `npm run generate` writes', (path, text) => {
    expect(readFileSync(join(root, path), 'utf8')).toBe(text)
  })
})
