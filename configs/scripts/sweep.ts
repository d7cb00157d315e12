/*
 * A sweep in the hands of a script: points from the sampler, a look at each while it trains, an end of its own for those that lag, and
 * a branch of the best one at a tenth of its learning rate. Killed, run it again: it goes on.
 * Run it with: npx stagewright script configs/scripts/sweep.ts RECIPE.yaml STAGE DATA TRIALS
 */
import { runsWorldOf, sweep } from 'stagewright'

const [recipe = '', stage = '', data = '', trials = '4'] = process.argv.slice(2)
const world = runsWorldOf({ cwd: process.cwd(), env: process.env, runsFolder: process.env.STAGEWRIGHT_RUNS ?? 'runs' })
const search = sweep(
  {
    formatVersion: 1,
    name: `script-${stage}`,
    recipe,
    stage,
    data: data || null,
    space: { learningRate: { min: 1e-6, max: 1e-2, log: true } },
    objective: { everySteps: 10 },
    budget: { trials: Number(trials) + 1 },
  },
  world,
)
let best = Number.POSITIVE_INFINITY

while (search.state.trials.filter(({ branchOf }) => branchOf === null).length < Number(trials)) {
  const trial = await search.suggest()
  if (!trial) break
  const training = search.train(trial)
  for await (const { step, value } of search.observe(trial)) {
    if (value > 3 * best) search.stop(trial, `${value.toPrecision(4)} at step ${step} is three times the best loss so far`)
  }
  const ended = await training
  if (ended?.value != null) best = Math.min(best, ended.value)
  console.log(`trial ${trial.number}: ${ended?.status}, ${ended?.value ?? ended?.message}`)
}

const { ranking } = await search.report()
const winner = ranking.best?.trials[0]
if (winner) {
  const slower = await search.branch(winner, { learningRate: Number(winner.values.learningRate) / 10 })
  const ended = await search.train(slower)
  console.log(`branch of trial ${winner.number}: ${ended?.value} against ${winner.value}`)
}
await search.close()
