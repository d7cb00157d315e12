import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { generatedScript, type LaunchRecord } from '../../src/upstream/generated-script.ts'

/** A launch script and the name of the tree it stands in. */
interface CorpusScript {
  readonly file: string
  readonly text: string
  readonly trainer: string | undefined
  readonly tree: string
}

export interface Corpus {
  readonly scripts: readonly CorpusScript[]
  /** Files scripts may name, by tree and path. */
  readonly trees: Readonly<Record<string, Readonly<Record<string, string>>>>
  readonly origin: string
}

const mostBytes = 1 << 28
/** As many imports as the history has, so that a process warms up alike. */
const times = 9

/** Every version of every launch script in the history of a checkout of upstream; scripts made from the catalogue's records without one. */
export function scriptCorpus(root: string, checkout: string | undefined): Corpus {
  return checkout ? ofHistory(checkout) : ofCatalogue(root)
}

function ofHistory(checkout: string): Corpus {
  const git = (args: readonly string[], input = '') => execFileSync('git', ['-C', checkout, ...args], { input, maxBuffer: mostBytes })
  const objects = git(['rev-list', '--objects', '--missing=allow-any', '--all'])
    .toString('latin1')
    .split('\n')
    .flatMap((line): { path: string; id: string }[] => {
      const [, id = '', path = ''] = /^([0-9a-f]+) (\S+)$/.exec(line) ?? []
      return /\.sh$|^scripts\/.*\.(?:json|ya?ml)$/.test(path) ? [{ path, id }] : []
    })
  const texts = contents(git(['cat-file', '--batch'], objects.map(({ id }) => `${id}\n`).join('')))
  const found = objects.flatMap(({ path, id }) => {
    const text = texts.get(id)
    return text === undefined ? [] : [{ path, text }]
  })
  // The newest version of each path comes first.
  const sidecars = found.filter(({ path }) => !path.endsWith('.sh')).reverse()
  const files = Object.fromEntries(sidecars.map(({ path, text }) => [path, text]))
  const scripts = found
    .filter(({ path }) => path.endsWith('.sh'))
    .map(({ path, text }) => ({ file: path, text, trainer: undefined, tree: 'history' }))
  return { scripts, trees: { history: files }, origin: `every version of every script in upstream’s history, ${scripts.length} of them` }
}

/** Texts by id from what `git cat-file --batch` writes: `ID blob SIZE` and as many bytes, or `ID missing`, each with a line end. */
function contents(bytes: Buffer): Map<string, string> {
  const texts = new Map<string, string>()
  for (let start = 0; start < bytes.length; ) {
    const line = bytes.indexOf(10, start)
    const [id = '', kind, size] = bytes.toString('latin1', start, line).split(' ')
    if (kind === 'blob') texts.set(id, bytes.toString('utf8', line + 1, line + 1 + Number(size)))
    start = line + 1 + (kind === 'missing' ? 0 : Number(size) + 1)
  }
  return texts
}

interface Recorded {
  readonly trainer: string
  readonly launch: LaunchRecord
  readonly files: Readonly<Record<string, string>>
}

function ofCatalogue(root: string): Corpus {
  const records: Record<string, Recorded> = JSON.parse(readFileSync(join(root, 'test/fixtures/upstream/launches.json'), 'utf8'))
  const made = Object.entries(records).map(([name, { trainer, launch }]) => ({
    file: `${name}.sh`,
    text: generatedScript(launch),
    trainer,
    tree: name,
  }))
  const trees = Object.fromEntries(Object.entries(records).map(([name, { files }]) => [name, files]))
  const origin = `${made.length} scripts made from the catalogue, ${times} times (STAGEWRIGHT_UPSTREAM=CHECKOUT takes upstream’s history)`
  return { scripts: Array.from({ length: times }, () => made).flat(), trees, origin }
}
