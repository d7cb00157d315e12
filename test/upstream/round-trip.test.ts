import { execFileSync } from 'node:child_process'
import { expect, test } from 'vitest'
import { exportStage } from '../../src/upstream/export.ts'
import { importScript } from '../../src/upstream/import.ts'

const checkout = process.env.STAGEWRIGHT_UPSTREAM
const tags = ['v1.0.0', 'v1.1.0', 'v1.2.0', 'v1.3.0', 'v1.3.1', 'v1.5.0']

function git(...args: string[]): string | undefined {
  try {
    return execFileSync('git', ['-C', checkout ?? '.', ...args], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
  } catch {
    return undefined
  }
}

function trainingScripts(tag: string): string[] {
  return (git('ls-tree', '-r', '--name-only', tag) ?? '').split('\n').filter((path) => /train[^/]*\.sh$/.test(path))
}

test.skipIf(checkout === undefined)('every training script at every tag comes back with the same arguments', { timeout: 60_000 }, () => {
  const launches = tags.flatMap((tag) =>
    trainingScripts(tag).flatMap((path) => importScript(git('show', `${tag}:${path}`) ?? '', { file: `${tag}:${path}`, trainer: tag })),
  )
  const different = launches.filter(({ stage, version, arguments: before }) => {
    const [after] = importScript(exportStage(stage, version).script, { file: 'exported.sh', trainer: version })
    return [...before].some(([flag, value]) => JSON.stringify(after?.arguments.get(flag)) !== JSON.stringify(value))
  })
  expect(different.map(({ label }) => label)).toEqual([])
  expect(launches.length).toBeGreaterThanOrEqual(39)
})
