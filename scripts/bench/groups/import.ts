import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Group } from '../group.ts'
import { scriptCorpus } from '../script-corpus.ts'
import { inTurns } from '../turns.ts'

/** Upstream's scripts to stages, each round in a fresh process: warming up counts. */
export const group: Group = {
  benchmarks: [
    {
      name: 'history',
      what: 'upstream launch scripts imported by one process',
      figure: 'value',
      unit: 'scripts/s',
      goal: { at: 'least', value: 500 },
    },
  ],
  async *measure(bench) {
    const corpus = scriptCorpus(bench.root, process.env.STAGEWRIGHT_UPSTREAM)
    const file = join(bench.scratch, 'corpus.json')
    writeFileSync(file, JSON.stringify(corpus))
    let launches = 0
    const once = () => {
      const answer = execFileSync(process.execPath, ['--import', 'tsx', join(import.meta.dirname, '..', 'import-corpus.ts'), file], {
        encoding: 'utf8',
      })
      const told: { scriptsPerSecond: number; launches: number } = JSON.parse(answer)
      launches = told.launches
      return told.scriptsPerSecond
    }
    const series = await inTurns(bench.rounds(5), { ours: once })
    yield { name: 'history', series, note: `${corpus.origin}; ${launches} launches in them` }
  },
}
