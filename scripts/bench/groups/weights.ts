import { closeSync, openSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import type { Group } from '../group.ts'
import { inTurns, processMs } from '../turns.ts'

const tensors = 1500
const comparedBytes = 768 * 2 ** 20

/** How fast weight files are looked into. Files lie in the page cache, on both sides. */
export const group: Group = {
  benchmarks: [
    {
      name: 'list',
      what: `\`stagewright weights ls\` of ${tensors} tensors beyond the start of the program, \`stagewright --version\``,
      figure: 'difference',
      unit: 'ms',
      goal: { at: 'most', value: 10 },
    },
    {
      name: 'compare',
      what: `\`stagewright weights diff\` of two equal files of ${comparedBytes / 2 ** 20} MiB against \`cmp\`, in GB/s`,
      figure: 'ratio',
      unit: '×',
      goal: { at: 'least', value: 0.8 },
    },
  ],
  async *measure(bench) {
    const program = await bench.program()
    const run = (...args: string[]) => processMs(process.execPath, [program, ...args])

    const small = join(bench.scratch, 'small.safetensors')
    writeWeights(small, tensors, 4096)
    const listed = await inTurns(bench.rounds(25), { reference: () => run('--version'), ours: () => run('weights', 'ls', small) })
    yield { name: 'list', series: listed, note: 'milliseconds' }

    const [a, b] = ['a', 'b'].map((name) => join(bench.scratch, `${name}.safetensors`)) as [string, string]
    for (const path of [a, b]) writeWeights(path, 24, comparedBytes / 24)
    const gigabytesPerSecond = (ms: number) => (2 * comparedBytes) / 1e6 / ms
    const compared = await inTurns(bench.rounds(7), {
      reference: () => gigabytesPerSecond(processMs('cmp', [a, b])),
      ours: () => gigabytesPerSecond(run('weights', 'diff', a, b)),
    })
    yield { name: 'compare', series: compared, note: 'both with the start of their process' }
  },
}

/** A valid file of float32 tensors named as a transformer's, each of as many bytes; what stands in them is no matter. */
function writeWeights(path: string, count: number, bytesEach: number): void {
  const entries = Array.from({ length: count }, (_, index) => {
    const name = `transformer_blocks.${Math.floor(index / 24)}.attn${index % 24}.to_q.weight`
    return [name, { dtype: 'F32', shape: [bytesEach / 4], data_offsets: [index * bytesEach, (index + 1) * bytesEach] }]
  })
  const text = JSON.stringify({ __metadata__: { format: 'pt' }, ...Object.fromEntries(entries) })
  const json = Buffer.from(text.padEnd(Math.ceil(text.length / 8) * 8))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.length))
  const block = Buffer.alloc(bytesEach, 'weights ')
  const file = openSync(path, 'w')
  try {
    writeSync(file, length)
    writeSync(file, json)
    for (let index = 0; index < count; index++) writeSync(file, block)
  } finally {
    closeSync(file)
  }
}
