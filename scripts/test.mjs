// Runs the checks or the tests of both languages and ends with one plain line: `N passed, N failed`. Runs on bare Node after scripts/setup.mjs.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const python = join(root, '.venv', 'bin', 'python')
const bin = (name) => join(root, 'node_modules', '.bin', name)
const full = process.argv.includes('--full')
const onlyTests = process.argv.includes('--tests')
const withQuickstart = process.argv.includes('--quickstart')
const reports = mkdtempSync(join(tmpdir(), 'stagewright-test-'))
const vitestReport = join(reports, 'vitest.json')
const pytestReport = join(reports, 'pytest.xml')

const checks = [
  ['format and lint, TypeScript', bin('biome'), ['ci', '--reporter=summary', '.']],
  ['types, TypeScript', bin('tsc'), ['--noEmit']],
  ['types, page', bin('tsc'), ['--noEmit', '--project', 'src/web/page']],
  ['unused files, exports and packages', bin('knip'), []],
  ['lint, Python', join(root, '.venv/bin/ruff'), ['check', '--quiet', '.'], 'python'],
  ['format, Python', join(root, '.venv/bin/ruff'), ['format', '--quiet', '--check', '.'], 'python'],
  ['types, Python', bin('pyright'), ['--project', 'python'], '.'],
  ['floors, Python', join(root, '.venv/bin/lint-imports'), ['--config', 'pyproject.toml', '--no-cache'], 'python'],
]
const quickstart = ['quickstart, short', process.execPath, [join(root, 'bin/stagewright.mjs'), 'quickstart', '--short']]
const tests = [
  ['tests, TypeScript', bin('vitest'), ['run', '--reporter=default', '--reporter=json', `--outputFile.json=${vitestReport}`]],
  ['tests, Python', python, ['-m', 'pytest', `--junitxml=${pytestReport}`, '-rs', ...(full ? [] : ['-m', 'not slow'])], 'python'],
]

let passed = 0
let failed = 0
const skipped = []

for (const [title, program, args, folder = '.'] of [...(onlyTests ? [] : checks), ...tests, ...(withQuickstart ? [quickstart] : [])]) {
  const began = Date.now()
  console.log(`\n── ${title}`)
  const done = spawnSync(program, args, {
    cwd: join(root, folder),
    stdio: 'inherit',
    env: { ...process.env, ...(full ? { STAGEWRIGHT_FULL: '1' } : {}), PATH: `${join(root, '.venv/bin')}:${process.env.PATH}` },
  })
  const ok = done.status === 0
  console.log(
    `── ${title}: ${ok ? 'passed' : `failed${done.error ? ` (${done.error.message})` : ''}`} in ${((Date.now() - began) / 1000).toFixed(1)} s`,
  )
  const counted = title.startsWith('tests') ? countTests(title) : { passed: ok ? 1 : 0, failed: ok ? 0 : 1 }
  passed += counted.passed
  failed += counted.failed + (!ok && counted.failed === 0 ? 1 : 0)
}

rmSync(reports, { recursive: true, force: true })
if (!full) skipped.push('tests marked slow: they take minutes, `npm run test:full` runs them')
if (!process.env.STAGEWRIGHT_UPSTREAM) skipped.push('tests over upstream’s own scripts: STAGEWRIGHT_UPSTREAM=CHECKOUT runs them')
if (skipped.length > 0) console.log(`\nskipped:\n${skipped.map((entry) => `  ${entry}`).join('\n')}`)
console.log(`\n${passed} passed, ${failed} failed`)
process.exitCode = failed === 0 ? 0 : 1

function countTests(title) {
  if (title.endsWith('TypeScript')) {
    if (!existsSync(vitestReport)) return { passed: 0, failed: 1 }
    const report = JSON.parse(readFileSync(vitestReport, 'utf8'))
    for (const file of report.testResults) {
      for (const entry of file.assertionResults) if (['pending', 'skipped', 'todo'].includes(entry.status)) skipped.push(entry.fullName)
    }
    return {
      passed: report.numPassedTests,
      failed: report.numFailedTests + (report.numFailedTestSuites > 0 && report.numFailedTests === 0 ? report.numFailedTestSuites : 0),
    }
  }
  if (!existsSync(pytestReport)) return { passed: 0, failed: 1 }
  const xml = readFileSync(pytestReport, 'utf8')
  const suite = /<testsuite [^>]*>/.exec(xml)?.[0] ?? ''
  const number = (name) => Number(new RegExp(`${name}="(\\d+)"`).exec(suite)?.[1] ?? 0)
  for (const match of xml.matchAll(/<testcase classname="([^"]*)" name="([^"]*)"[^>]*><skipped[^>]*message="([^"]*)"/g))
    skipped.push(`${match[1]} ${match[2]}: ${match[3]}`)
  const bad = number('failures') + number('errors')
  return { passed: number('tests') - bad - number('skipped'), failed: bad }
}
