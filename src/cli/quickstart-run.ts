import { spawnSync } from 'node:child_process'
import { join, relative, resolve } from 'node:path'
import { loadRecipe, type Recipe } from '../config/recipe.ts'
import { readConfigFile } from '../config/source.ts'
import { diffStages } from '../domain/diff/stage-diff.ts'
import { UserError } from '../domain/errors.ts'
import { firstStageGates, type Gate, type HeldOut, lossOf, secondStageGates, vaeGates } from '../domain/gates.ts'
import type { StageSide } from '../domain/stage/origin.ts'
import { stageSchema } from '../domain/stage/schema.ts'
import { chainPlan, startFound, withData } from '../runs/chain.ts'
import { chainOf, startChain } from '../runs/chain-driver.ts'
import { type Prepared, prepareRun } from '../runs/launch.ts'
import { planStage } from '../runs/plan.ts'
import type { RunsWorld } from '../runs/world.ts'
import { type Run, readState } from '../store/runs.ts'
import { followStages, sayFound } from './chain-actions.ts'
import { diffLines } from './diff-text.ts'
import { follow } from './follow.ts'
import { printPlan } from './plan-run.ts'
import { brief, duration } from './progress.ts'
import type { RunOptions, TrainingWorld } from './run-world.ts'
import { paintFor, widthOf } from './terminal.ts'

export interface QuickstartArguments extends RunOptions {
  data: string | undefined
  seed: number
  short: boolean
}

const clips = 48
/** Steps of each stage in the short form: the same code, too few to learn much. */
const shortSteps = [
  'vae:steps=24',
  't2v-1:steps=12',
  't2v-2:steps=8',
  'vae:heldOut.everySteps=12',
  't2v-1:heldOut.everySteps=null',
  't2v-2:heldOut.everySteps=null',
]

/** Makes the clips, trains the chain, trains the control, and checks the gates. */
export async function runQuickstart(args: QuickstartArguments, world: TrainingWorld): Promise<void> {
  const began = performance.now()
  const { bold } = paintFor(world.stdout, world.env)
  const say = (text: string) => world.stdout.write(`${text}\n`)
  const folder = resolve(world.cwd, '.quickstart')
  const runs = await world.runsWorld({
    runsFolder: resolve(world.cwd, args.runs ?? join('.quickstart', 'runs')),
    pythonEnv: args.pythonEnv,
  })
  const data =
    args.data === undefined ? makeClips(join(folder, `clips-${args.seed}`), args.seed, runs, world) : resolve(world.cwd, args.data)
  const file = relative(world.cwd, join(world.packageRoot, 'configs', 'recipes', 'quickstart.yaml'))
  const set = [`seed=${args.seed}`, ...(args.short ? shortSteps : [])]
  const recipe = loadRecipe(file, { readFile: (path) => readConfigFile(resolve(world.cwd, path)), set })

  say(
    `\n${bold('Three stages')}: a video autoencoder; text-to-video on short, small clips; the same model fine-tuned on longer, larger ones.\n`,
  )
  const chain = chainOf(chainPlan(recipe, { data }), runs)
  const before = async (name: string, run: Run, found: Prepared['found']) => {
    const side = recipe.stages.find(({ stage }) => stage.name === name)
    if (side) printPlan(await planStage(withData(side, data), runs), world)
    await sayFound(name, run, found, world)
  }
  const { runs: done, end } = await followStages(chain, await startChain(chain, runs), { owns: true, before }, world, runs)
  if (end?.reason !== 'completed') return world.setExitCode(1)
  const control = await trainControl(recipe, data, done, world, runs)
  if (!control) return world.setExitCode(1)

  printStageDiff(recipe, data, world)
  const gates = printGates(done, control, world)
  printSamples(done, world)
  const second = done.get('t2v-2')
  say(`\n${bold('Next')}`)
  say(
    `  npx stagewright diff ${second?.id}@0 ${second?.id}`.replace(
      /diff .*/,
      `diff configs/recipes/quickstart.yaml#t2v-1 configs/recipes/quickstart.yaml#t2v-2`,
    ),
  )
  say(`  npx stagewright show latest --runs ${relative(world.cwd, runs.runsFolder)}`)
  say(`  npx stagewright branch ${second?.id} --runs ${relative(world.cwd, runs.runsFolder)} --set steps=100 --set learningRate=1e-4`)
  say(`\ntook ${duration((performance.now() - began) / 1000)}`)
  if (args.short) {
    say('short form: the gates were measured, not required')
    return
  }
  if (gates.some(({ passed }) => !passed)) world.setExitCode(1)
}

function makeClips(folder: string, seed: number, runs: RunsWorld, world: TrainingWorld): string {
  const { python, pythonPath } = runs.python()
  const done = spawnSync(python, ['-m', 'osplan.data.synthetic', folder, '--clips', String(clips), '--seed', String(seed)], {
    encoding: 'utf8',
    env: { ...world.env, PYTHONPATH: pythonPath } as NodeJS.ProcessEnv,
  })
  if (done.status !== 0)
    throw new UserError('CLIPS_FAILED', `${folder}: expected ${clips} clips, got: ${done.stderr.trim().split('\n').at(-1)}`, {
      hint: 'stagewright doctor',
    })
  world.stdout.write(`${clips} clips of moving shapes in ${relative(world.cwd, folder)}\n`)
  return join(folder, 'merge_data.txt')
}

/** The second stage again, from the first stage's own initial weights: what fine-tuning must beat. */
async function trainControl(
  recipe: Recipe,
  data: string,
  done: ReadonlyMap<string, Run>,
  world: TrainingWorld,
  runs: RunsWorld,
): Promise<Run | undefined> {
  const second = recipe.stages.find(({ stage }) => stage.name === 't2v-2')
  if (!second) throw new Error('the quickstart recipe has no stage t2v-2')
  const { stage } = second
  const control: StageSide = {
    ...second,
    stage: stageSchema.parse({
      ...stage,
      name: 'control',
      init: { ...stage.init, weights: null },
      samples: { ...stage.samples, prompts: [] },
    }),
  }
  world.stdout.write(
    '\nThe control: the same steps of stage t2v-2 from the initial weights of t2v-1, to see what the first stage was worth.\n',
  )
  const prepared = await prepareRun(withData(control, data), { verb: 'train', earlier: done, reuse: true }, runs)
  if (prepared.found === 'finished') return prepared.run
  const start = () => startFound(prepared, runs)
  const end = await follow(prepared.run, { ctrlC: 'stops', start }, world, runs)
  return end?.reason === 'completed' ? prepared.run : undefined
}

function printStageDiff(recipe: Recipe, data: string, world: TrainingWorld): void {
  const [first, second] = ['t2v-1', 't2v-2'].map((name) => recipe.stages.find(({ stage }) => stage.name === name))
  if (!first || !second) return
  const style = { paint: paintFor(world.stdout, world.env), columns: widthOf(world.stdout) }
  world.stdout.write(`\n${diffLines(diffStages(withData(first, data), withData(second, data)), style).join('\n')}\n`)
}

function printGates(done: ReadonlyMap<string, Run>, control: Run, world: TrainingWorld): Gate[] {
  const { bold, green, red, dim } = paintFor(world.stdout, world.env)
  const measured = (run: Run | undefined): HeldOut[] => (run ? [...readState(run).heldOut] : [])
  const [vae, first, second, scratch] = [
    measured(done.get('vae')),
    measured(done.get('t2v-1')),
    measured(done.get('t2v-2')),
    measured(control),
  ]
  const ends = (points: HeldOut[]): [HeldOut, HeldOut] => {
    const [start, finish] = [points[0], points.at(-1)]
    if (!start || !finish) throw new Error('a finished run has no held-out measurement')
    return [start, finish]
  }
  const controlEnd = scratch.at(-1)
  if (!controlEnd) throw new Error('the control has no held-out measurement')
  const groups: [string, Gate[]][] = [
    ['vae', vaeGates(...ends(vae))],
    ['t2v-1', firstStageGates(...ends(first))],
    ['t2v-2', secondStageGates(...ends(second), controlEnd)],
  ]
  world.stdout.write(`\n${bold('On clips never trained on')}\n`)
  for (const [name, points] of [
    ['vae', vae],
    ['t2v-1', first],
    ['t2v-2', second],
  ] as const) {
    const [start, finish] = ends(points)
    world.stdout.write(`  ${name.padEnd(6)} held-out loss ${brief(lossOf(start))} → ${brief(lossOf(finish))}\n`)
  }
  for (const [stage, gates] of groups) {
    for (const { name, measured: value, comparison, limit, unit, passed } of gates) {
      world.stdout.write(
        `  ${passed ? green('✓') : red('✗')} ${stage.padEnd(6)} ${name}: ${brief(value)} ${unit} ${dim(`(${comparison} ${limit} ${unit})`)}\n`,
      )
    }
  }
  return groups.flatMap(([, gates]) => gates)
}

function printSamples(done: ReadonlyMap<string, Run>, world: TrainingWorld): void {
  const { bold, dim } = paintFor(world.stdout, world.env)
  world.stdout.write(
    `\n${bold('Samples')} ${dim('(mostly the right background and colour; shapes are rough or missing after so few steps)')}\n`,
  )
  for (const run of done.values()) {
    for (const { path, prompt } of readState(run).samples.slice(-3))
      world.stdout.write(`  ${relative(world.cwd, join(run.folder, path))}  ${dim(prompt)}\n`)
  }
}
