import { spawnSync } from 'node:child_process'
import { rmSync } from 'node:fs'
import { availableParallelism, cpus, loadavg, totalmem } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { findPython } from '../src/bridge/environment.ts'
import { type Result, resultOf } from './bench/figure.ts'
import { allGroups, type Bench, type Group } from './bench/group.ts'
import { packProgram, scratchFolder } from './bench/packed-program.ts'
import { listedLines, markdown, resultLines } from './bench/text.ts'

const help = `npm run bench [-- GROUP…]

Measures the program against references in the same run, in turns, and says which goals are reached.
Without a name, all groups run. docs/benchmarks.md says what they are and how to add one.

  --list      groups and benchmarks, nothing is run
  --quick     two rounds of each: to see it run, not to read numbers from
  --json      results as JSON (formatVersion 1)
  --markdown  results as the table of the README

Exit code 0: all goals reached; 1: some missed; 2: could not measure.
`
const quickRounds = 2
const root = join(import.meta.dirname, '..')
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: Object.fromEntries(
    ['list', 'quick', 'json', 'markdown', 'help'].map((name) => [name, { type: 'boolean', default: false }] as const),
  ),
})

/** Cores, processor, memory, programs and day: a number means nothing without them. */
function machineLine(): string {
  const { python } = findPython(root, process.env)
  const probe =
    'import torch; print(torch.__version__, torch.get_num_threads(), torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU", sep="|")'
  const [torch, threads, gpu] = spawnSync(python, ['-c', probe], { encoding: 'utf8' }).stdout.trim().split('|')
  const memory = `${Math.round(totalmem() / 2 ** 30)} GB`
  const [minute = 0] = loadavg()
  return [
    `${availableParallelism()} cores ${cpus()[0]?.model.trim() ?? process.arch}, ${memory}, ${gpu}`,
    `Node ${process.versions.node}, torch ${torch} on ${threads} threads`,
    new Date().toISOString().slice(0, 10),
    `load ${minute.toFixed(1)} at the start`,
  ].join('; ')
}

async function measureGroup(name: string, group: Group, bench: Bench): Promise<Result[]> {
  const listed = new Map(group.benchmarks.map((each) => [each.name, each]))
  const results: Result[] = []
  for await (const got of group.measure(bench)) {
    const benchmark = listed.get(got.name)
    if (!listed.delete(got.name) || benchmark === undefined) throw new Error(`group ${name}: ${got.name} is not listed, or came twice`)
    const result = resultOf(name, benchmark, got)
    results.push(result)
    if (!values.json && !values.markdown) console.log(resultLines(result).join('\n'))
  }
  if (listed.size > 0) throw new Error(`group ${name}: ${[...listed.keys()].join(', ')} gave no result`)
  return results
}

async function measureAll(groups: ReadonlyMap<string, Group>): Promise<Result[]> {
  const scratch = scratchFolder(root)
  const clean = () => rmSync(scratch, { recursive: true, force: true })
  for (const [signal, code] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)
    process.once(signal, () => {
      clean()
      process.exit(code)
    })
  let packed: Promise<string> | undefined
  const bench: Bench = {
    root,
    scratch,
    rounds: (wanted) => (values.quick ? Math.min(quickRounds, wanted) : wanted),
    program: () => (packed ??= packProgram(root, scratch)),
  }
  const results: Result[] = []
  try {
    for (const [name, group] of groups) {
      if (!values.json) console[values.markdown ? 'error' : 'log'](name)
      results.push(...(await measureGroup(name, group, bench)))
    }
  } finally {
    clean()
  }
  return results
}

async function main(): Promise<number> {
  if (values.help) {
    process.stdout.write(help)
    return 0
  }
  const all = await allGroups(root)
  const unknown = positionals.filter((name) => !all.has(name))
  if (unknown.length > 0) {
    console.error(`groups: expected ${[...all.keys()].join(', ')}, got ${unknown.join(', ')}`)
    return 2
  }
  const chosen = new Map([...all].filter(([name]) => positionals.length === 0 || positionals.includes(name)))
  if (values.list) {
    if (values.json)
      console.log(
        JSON.stringify({ formatVersion: 1, groups: Object.fromEntries([...chosen].map(([name, { benchmarks }]) => [name, benchmarks])) }),
      )
    else for (const [name, { benchmarks }] of chosen) console.log(listedLines(name, benchmarks).join('\n'))
    return 0
  }
  const machine = machineLine()
  if (!values.json && !values.markdown) console.log(`${machine}\n`)
  const results = await measureAll(chosen)
  if (values.json) console.log(JSON.stringify({ formatVersion: 1, machine, quick: values.quick, results }, null, 2))
  if (values.markdown) console.log(markdown(machine, results))
  return results.some(({ reached }) => reached === false) ? 1 : 0
}

try {
  process.exitCode = await main()
} catch (cause) {
  console.error(cause instanceof Error ? cause.stack : cause)
  process.exitCode = 2
}
