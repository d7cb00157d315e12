import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { findPython } from '../../src/bridge/environment.ts'

let root: string
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'python-'))
})
afterEach(() => rmSync(root, { recursive: true, force: true }))

function environment(name: string): string {
  mkdirSync(join(root, name, 'bin'), { recursive: true })
  writeFileSync(join(root, name, 'bin', 'python'), '')
  return join(root, name)
}

describe('the Python that trains', () => {
  test('is that of the package’s own environment where none is chosen', () => {
    const own = environment('.venv')
    const expected = { python: join(own, 'bin', 'python'), pythonPath: join(root, 'python') }
    expect(findPython(root, {})).toEqual(expected)
    expect(findPython(root, { STAGEWRIGHT_PYTHON_ENV: '' })).toEqual(expected)
  })

  test('is the chosen environment’s, or the chosen file itself', () => {
    environment('.venv')
    const chosen = environment('cluster')
    for (const path of [chosen, join(chosen, 'bin', 'python')]) {
      expect(findPython(root, { STAGEWRIGHT_PYTHON_ENV: path }).python).toBe(join(chosen, 'bin', 'python'))
    }
  })

  test('is refused where the choice is no environment, whatever else there is', () => {
    environment('.venv')
    mkdirSync(join(root, 'empty'))
    for (const path of [join(root, 'empty'), join(root, 'nowhere')]) {
      expect(() => findPython(root, { STAGEWRIGHT_PYTHON_ENV: path })).toThrow(
        expect.objectContaining({
          code: 'PYTHON_MISSING',
          message: `Python: expected an environment at ${path}, got none`,
          hint: 'point it at a virtual environment or at its python',
        }),
      )
    }
  })

  test('is to be set up where there is none', () => {
    expect(() => findPython(root, {})).toThrow(
      expect.objectContaining({ code: 'PYTHON_MISSING', hint: expect.stringContaining('npm run setup') }),
    )
  })
})
