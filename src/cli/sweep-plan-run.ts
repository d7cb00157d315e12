import { resolve } from 'node:path'
import { readConfigFile } from '../config/source.ts'
import { loadSweep } from '../config/sweep-file.ts'
import { planSweep, type SweepPlan } from '../runs/sweep/plan.ts'
import { chosenEngine } from './engine-chosen.ts'
import { runsFolderOf } from './folders.ts'
import { type Start, startOf } from './plan-run.ts'
import { duration } from './progress.ts'
import type { TrainingWorld } from './run-world.ts'
import type { SweepPlanArguments } from './sweep-run.ts'
import { paintFor, table, writeJson, writeLines } from './terminal.ts'

const formatVersion = 1

/** Plans a sweep. Exit code 1 where some of its points are no stage. */
export async function planSweepFile(args: SweepPlanArguments, world: TrainingWorld): Promise<void> {
  const runs = await world.runsWorld({
    runsFolder: runsFolderOf(args.runs, world),
    pythonEnv: args.pythonEnv,
    chosenEngine: chosenEngine(args, world),
  })
  const loaded = loadSweep(args.file, { readFile: (path) => readConfigFile(resolve(world.cwd, path)), data: args.data })
  const plan = await planSweep(loaded, runs)
  const swept = loaded.stages.at(-1)?.stage
  const start = runs.chosenEngine && swept ? await startOf(swept, runs) : undefined
  if (plan.infeasible.length > 0 || start?.isPossible === false) world.setExitCode(1)
  if (args.json) {
    writeJson(world.stdout, { formatVersion, ...plan, ...(start ? { start } : {}) })
    return
  }
  const { bold, dim } = paintFor(world.stdout, world.env)
  writeLines(world.stdout, [`${bold(plan.name)} ${dim(`stage ${plan.stage}`)}`, ...table(rowsOf(plan, start), '  ')])
}

function rowsOf(plan: SweepPlan, start: Start | undefined): [string, string][] {
  const { points, trials, steps, hours } = plan
  return [
    [
      'points',
      points.isWhole ? `${points.feasible} of ${points.looked} in the grid` : `${points.feasible} of ${points.looked} suggested to look at`,
    ],
    ...plan.infeasible.slice(0, 5).map((entry): [string, string] => ['passed over', `${entry.points}: ${entry.reason}`]),
    ['duplicates', String(plan.duplicates)],
    ['trials', trials === null ? 'until the budget of steps or hours is spent' : String(trials)],
    ['steps', `${plan.stepsPerTrial} a trial${steps === null ? '' : `, at most ${steps} in all`}`],
    ['measured', plan.measuredEvery === null ? 'at the end' : `every ${plan.measuredEvery} steps`],
    ['trained once', plan.prefix.join(', ') || 'nothing before it'],
    ['devices', hours === null ? 'unknown: no run of this stage yet' : `at most ${duration(3600 * hours)}`],
    ['disk', `${megabytes(plan.bytesPerTrial)} a trial${plan.bytes === null ? '' : `, ${megabytes(plan.bytes)} in all`}`],
    ...(start ? [['starts', start.text] satisfies [string, string]] : []),
    ...plan.notes.map((note): [string, string] => ['note', note]),
  ]
}

function megabytes(bytes: number): string {
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(1)} GB`
}
