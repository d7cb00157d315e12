import { mkdirSync, mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { defaultStage } from '../../src/domain/stage/fields.ts'
import { withAbsolutePaths } from '../../src/runs/local-paths.ts'

test('paths of a recipe are seen from where it was started, names of hubs stay names', () => {
  const cwd = mkdtempSync(join(tmpdir(), 'stagewright-'))
  mkdirSync(join(cwd, 'encoder'))
  mkdirSync(join(cwd, 'bytes'))
  const stage = defaultStage('one')
  const changed = withAbsolutePaths(
    {
      ...stage,
      text: { ...stage.text, encoder: 'encoder', secondEncoder: 'google/mt5-xxl' },
      objective: { ...stage.objective, lpipsWeights: 'vgg.pth' },
      samples: { ...stage.samples, from: ['cat.png', 'a.png,/b.png'] },
    },
    cwd,
  )
  expect(changed.text).toMatchObject({ encoder: join(cwd, 'encoder'), secondEncoder: 'google/mt5-xxl' })
  expect(changed.objective.lpipsWeights).toBe(join(cwd, 'vgg.pth'))
  expect(changed.samples.from).toEqual([join(cwd, 'cat.png'), `${join(cwd, 'a.png')},/b.png`])
  expect(withAbsolutePaths(stage, cwd)).toEqual(stage)
})
