import type { Alert } from '../domain/run/alert.ts'
import { endOf } from '../domain/run/state.ts'
import { attach } from '../runs/attach.ts'
import { type Monitored, monitorRun } from '../runs/monitor.ts'
import { settledState } from '../runs/supervise.ts'
import type { RunsWorld } from '../runs/world.ts'
import { findRun, type Run } from '../store/runs.ts'
import { runsFolderOf } from './folders.ts'
import { brief } from './progress.ts'
import type { RunOptions, TrainingWorld } from './run-world.ts'
import { type Paint, paintFor, widthOf, wrapped, writeJson, writeLines } from './terminal.ts'

export interface MonitorArguments extends RunOptions {
  run: string
  dry: boolean
  set: string[]
  rules: boolean
  json: boolean
}

const formatVersion = 1

/** Prints what the rules say; of a run that still trains also what its trainer says from now on. Exit code 1 where a rule alerts. */
export async function runMonitor(args: MonitorArguments, world: TrainingWorld): Promise<void> {
  const runsFolder = runsFolderOf(args.runs, world)
  const run = findRun(runsFolder, args.run)
  const runs = await world.runsWorld({ runsFolder, pythonEnv: args.pythonEnv })
  const said = await monitorRun(run, args.set, runs)
  if (said.alerts.some(({ severity }) => severity === 'alert')) world.setExitCode(1)
  if (args.json) {
    writeJson(world.stdout, { formatVersion, run: run.id, ...said, rules: args.rules ? said.rules : undefined })
    return
  }
  const [paint, columns] = [paintFor(world.stdout, world.env), widthOf(world.stdout)]
  writeLines(world.stdout, [
    ...said.alerts.flatMap((alert) => alertLines(alert, paint, columns)),
    summary(said),
    ...(args.rules ? ruleLines(said, paint, columns) : []),
  ])
  if (!args.dry && !endOf(await settledState(run, runs))) await followIncidents(run, world, runs)
}

async function followIncidents(run: Run, world: TrainingWorld, runs: RunsWorld): Promise<void> {
  const leaving = new AbortController()
  const release = world.onInterrupt(() => leaving.abort())
  world.stdout.write('it trains; what its trainer says follows, Ctrl-C leaves\n')
  const since = Date.now() / 1000
  try {
    for await (const { event } of attach(run, runs, { signal: leaving.signal })) {
      if (event.event === 'incident' && event.ts > since) {
        world.stdout.write(`step ${event.step}  ${event.kind}: ${event.message}; ${event.action}\n`)
        if (event.severity !== 'advice') world.setExitCode(1)
      }
    }
  } finally {
    release()
  }
}

function alertLines({ severity, rule, step, message, advice, source, evidence }: Alert, paint: Paint, columns: number): string[] {
  const word = severity === 'alert' ? paint.red(rule) : paint.yellow(rule)
  const window = evidence.from === null ? '' : paint.dim(` (evidence: steps ${evidence.from}–${evidence.to})`)
  const indented = (text: string) => wrapped(text, Math.max(20, columns - 4)).map((line) => `    ${line}`)
  return [
    `step ${step}  ${word}${window}`,
    ...indented(message),
    ...indented(`→ ${advice}`),
    ...indented(`${evidence.quantity}: ${shown(evidence.values)}`).map(paint.dim),
    ...indented(source).map(paint.dim),
    '',
  ]
}

function shown(values: Alert['evidence']['values']): string {
  const last = values.slice(-5)
  return `${last.length < values.length ? '… ' : ''}${last.map(([step, value]) => `${brief(value)} at ${step}`).join(', ')}`
}

function summary({ alerts, steps, everySteps }: Monitored): string {
  const count = (severity: Alert['severity']) => alerts.filter((alert) => alert.severity === severity).length
  const thinned = everySteps > 1 ? `; the journal has every ${everySteps}th step, the trainer saw all` : ''
  const [wrong, advice] = [count('alert'), count('advice')]
  return `${wrong} alert${wrong === 1 ? '' : 's'}, ${advice} piece${advice === 1 ? '' : 's'} of advice over ${steps} steps${thinned}`
}

function ruleLines({ rules }: Monitored, paint: Paint, columns: number): string[] {
  return rules.flatMap(({ name, setting, watches, reason, source }) => [
    '',
    `${paint.bold(name)}  ${paint.dim(setting)}`,
    ...[`finds ${watches}`, reason, source].flatMap((text) => wrapped(text, Math.max(20, columns - 4)).map((line) => `    ${line}`)),
  ])
}
