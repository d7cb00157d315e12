/*
 * A sweep in a few lines: the first stage of a recipe at several learning rates, one after another, and which did best.
 * Run it with: npx stagewright script configs/scripts/learning-rates.ts RECIPE.yaml#STAGE DATA 1e-3,3e-4
 */
import { attach, prepareRun, readState, resolveSide, runsWorldOf, startFound, withData } from 'stagewright'

const [address = '', data = '', rates = '1e-3,3e-4'] = process.argv.slice(2)
const world = runsWorldOf({ cwd: process.cwd(), env: process.env, runsFolder: process.env.STAGEWRIGHT_RUNS ?? 'runs' })
const results: { learningRate: number; loss: number; run: string }[] = []

for (const text of rates.split(',')) {
  const side = await resolveSide(address, { cwd: world.cwd, runsFolder: world.runsFolder, set: [`learningRate=${text}`] })
  const prepared = await prepareRun(withData(side, data), { verb: 'train', reuse: true }, world)
  const { run } = prepared
  if (prepared.found !== 'finished') {
    await startFound(prepared, world)
    for await (const { event } of attach(run, world)) if (event.event === 'ended') console.log(`${run.id}: ${event.reason}`)
  }
  const last = readState(run).heldOut.at(-1)
  results.push({ learningRate: Number(text), loss: (last?.ema ?? last?.raw)?.loss ?? Number.NaN, run: run.id })
}

results.sort((a, b) => a.loss - b.loss)
for (const { learningRate, loss, run } of results) console.log(`${learningRate}  held-out loss ${loss.toFixed(4)}  ${run}`)
