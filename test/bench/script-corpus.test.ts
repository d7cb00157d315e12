import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { scriptCorpus } from '../../scripts/bench/script-corpus.ts'

const root = join(import.meta.dirname, '..', '..')

test('the history of a checkout gives every version of every script, whatever letters are in it, and the newest sidecars', () => {
  const checkout = mkdtempSync(join(tmpdir(), 'corpus-'))
  const git = (...args: string[]) => execFileSync('git', ['-C', checkout, '-c', 'user.name=a', '-c', 'user.email=a@b', ...args])
  git('init', '-q')
  mkdirSync(join(checkout, 'scripts'))
  for (const version of ['first', 'second 第二 \u{1f600}']) {
    writeFileSync(join(checkout, 'train.sh'), `# ${version}\n`)
    writeFileSync(join(checkout, 'scripts', 'zero.json'), JSON.stringify({ version }))
    git('add', '-A')
    git('commit', '-qm', version)
  }
  const { scripts, trees } = scriptCorpus(root, checkout)
  expect(scripts.map(({ text }) => text).sort()).toEqual(['# first\n', '# second 第二 \u{1f600}\n'])
  expect(JSON.parse(trees[scripts[0]?.tree ?? '']?.['scripts/zero.json'] ?? '')).toEqual({ version: 'second 第二 \u{1f600}' })
  rmSync(checkout, { recursive: true })
})

test('without a checkout the catalogue gives scripts that launch trainers', () => {
  const { scripts } = scriptCorpus(root, undefined)
  expect(scripts.length).toBeGreaterThan(100)
  expect(scripts.every(({ text }) => text.includes('train'))).toBe(true)
})
