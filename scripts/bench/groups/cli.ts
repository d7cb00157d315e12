import { join } from 'node:path'
import type { Group } from '../group.ts'
import { inTurns, processMs } from '../turns.ts'

const rounds = 25

/** How long a person waits for the program to say something, in starts of a Node that does nothing. */
export const group: Group = {
  benchmarks: [
    { name: 'help', what: '`stagewright --help` against `node -e 0`', figure: 'ratio', unit: '×', goal: { at: 'most', value: 4 } },
    {
      name: 'diff',
      what: '`stagewright diff` of two recipes against `node -e 0`',
      figure: 'ratio',
      unit: '×',
      goal: { at: 'most', value: 6 },
    },
  ],
  async *measure(bench) {
    const program = await bench.program()
    const recipe = join(bench.root, 'configs', 'recipes', 'quickstart.yaml')
    const series = await inTurns(bench.rounds(rounds), {
      nothing: () => processMs(process.execPath, ['-e', '0']),
      help: () => processMs(process.execPath, [program, '--help']),
      diff: () => processMs(process.execPath, [program, 'diff', `${recipe}#t2v-1`, `${recipe}#t2v-2`], 1),
    })
    const reference = series.nothing ?? []
    for (const name of ['help', 'diff']) yield { name, series: { ours: series[name] ?? [], reference }, note: 'milliseconds' }
  },
}
