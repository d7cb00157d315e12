import { dirname } from 'node:path'
import { execa } from 'execa'
import { UserError } from '../domain/errors.ts'
import { type ManifestKind, manifestOf } from '../engines/manifests.ts'
import { shellWord } from '../engines/trainer-command.ts'
import { jobOf } from '../runs/job.ts'
import { type Meeting, meetingOf, nextAttempt, nodeLauncher, startedByFirst, startFirstNode } from '../runs/nodes.ts'
import type { RunsWorld } from '../runs/world.ts'
import { ranksOf } from '../store/ranks.ts'
import { findRun, type Run } from '../store/runs.ts'
import { runsFolderOf } from './folders.ts'
import { announced, exitCodeOf, follow } from './follow.ts'
import type { RunOptions, TrainingWorld } from './run-world.ts'
import { writeJson } from './terminal.ts'

export interface LaunchArguments extends RunOptions {
  run: string
  rdzv: string | undefined
  nodes: number | undefined
  nodeRank: number | undefined
  render: ManifestKind | undefined
  image: string | undefined
  storage: string | undefined
  accelerator: string
  wait: number
  json: boolean
}

const formatVersion = 1

export async function runLaunch(args: LaunchArguments, world: TrainingWorld): Promise<void> {
  const runsFolder = runsFolderOf(args.runs, world)
  const run = findRun(runsFolder, args.run)
  const runs = await world.runsWorld({ runsFolder, pythonEnv: args.pythonEnv })
  const { nodes } = ranksOf(run)
  if (args.nodes !== undefined && args.nodes !== nodes) {
    throw new UserError('NODES', `--nodes ${args.nodes}: expected the ${nodes} of the run, got ${args.nodes}`, {
      hint: 'a stage’s parallel.nodes says how many machines it trains on: --set parallel.nodes=…',
    })
  }
  if (args.render) return printManifest(args.render, run, args, world, runs)
  if (args.rdzv === undefined) {
    throw new UserError('USAGE', 'launch: expected --rdzv HOST:PORT or --render', { hint: 'stagewright launch --help' })
  }
  const meeting = meetingOf(args.rdzv)
  if (args.nodeRank === undefined) return printLines(run, nodes, meeting, args, world, runs)
  if (args.nodeRank === 0) {
    const start = () => announced(run, () => startFirstNode(run, meeting, runs), world)
    const fromAttempt = nextAttempt(run)
    world.setExitCode(exitCodeOf(await follow(run, { ctrlC: 'stops', start, fromAttempt }, world, runs)))
    return
  }
  await joinAs(args.nodeRank, run, meeting, args, world, runs)
}

/** Starts this machine's launcher in the foreground; the first machine's supervisor says how the run ends. */
async function joinAs(
  node: number,
  run: Run,
  meeting: Meeting,
  args: LaunchArguments,
  world: TrainingWorld,
  runs: RunsWorld,
): Promise<void> {
  nodeLauncher(run, nextAttempt(run), meeting, node, runs)
  const { number } = await startedByFirst(run, args.wait)
  const { command, env } = nodeLauncher(run, number, meeting, node, runs)
  const [program = '', ...words] = command
  const child = execa(program, words, { cwd: run.folder, env: { ...world.env, ...env }, stdio: 'inherit', reject: false })
  const release = world.onInterrupt(() => child.kill('SIGTERM'))
  const { exitCode } = await child
  release()
  world.setExitCode(exitCode === 0 ? 0 : 1)
}

function printLines(run: Run, nodes: number, meeting: Meeting, args: LaunchArguments, world: TrainingWorld, runs: RunsWorld): void {
  const attempt = nextAttempt(run)
  const launchers = Array.from({ length: nodes }, (_, node) => nodeLauncher(run, attempt, meeting, node, runs))
  if (args.json) {
    writeJson(world.stdout, { formatVersion, run: run.id, attempt, launchers })
    return
  }
  for (const [node, { command, env }] of launchers.entries()) {
    const place = `--rdzv ${meeting.host}:${meeting.port} --node-rank ${node}`
    world.stdout.write(`# machine ${node}: stagewright launch ${run.id} ${place}\n# which starts:\n`)
    const variables = Object.entries(env).map(([name, value]) => `${name}=${shellWord(value)}`)
    world.stdout.write(`${[...variables, ...command.map((word) => shellWord(word))].join(' ')}\n`)
  }
}

function printManifest(kind: ManifestKind, run: Run, args: LaunchArguments, world: TrainingWorld, runs: RunsWorld): void {
  if (args.image === undefined || args.storage === undefined) {
    throw new UserError('USAGE', `--render ${kind}: expected --image and --storage`, { hint: 'stagewright launch --help' })
  }
  const place = { image: args.image, storage: args.storage, mount: dirname(run.folder), accelerator: args.accelerator }
  world.stdout.write(manifestOf(kind, jobOf(run, nextAttempt(run), runs.python()), place))
}
