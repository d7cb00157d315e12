import yargs, { type CommandModule } from 'yargs'
import { UserError } from '../domain/errors.ts'
import { nearestName } from '../domain/nearest.ts'
import { alertsCommand } from './alerts.ts'
import { configCommand } from './config.ts'
import { curvesCommand } from './curves.ts'
import { dataCommand } from './data.ts'
import { diffCommand } from './diff.ts'
import { doctorCommand } from './doctor.ts'
import { driveChainCommand } from './drive-chain.ts'
import { exportCommand } from './export.ts'
import { importCommand } from './import.ts'
import { launchCommand } from './launch.ts'
import { lineageCommand } from './lineage.ts'
import { lintCommand } from './lint.ts'
import { monitorCommand } from './monitor.ts'
import { parityCommand } from './parity.ts'
import { planCommand } from './plan.ts'
import { driveQueueCommand, queueCommand } from './queue.ts'
import { quickstartCommand } from './quickstart.ts'
import { replayCommand } from './replay.ts'
import { reportCommand } from './report.ts'
import { runCommands } from './run-commands.ts'
import type { TrainingWorld } from './run-world.ts'
import { runsCommand } from './runs.ts'
import { sampleCommand } from './sample.ts'
import { scriptCommand } from './script.ts'
import { stagesCommand } from './stages.ts'
import { suggestCommand } from './suggest.ts'
import { superviseCommand } from './supervise.ts'
import { driveSweepCommand, sweepCommand } from './sweep.ts'
import { trainCommand } from './train.ts'
import { watchCommand } from './watch.ts'
import { webCommand } from './web.ts'
import { weightsCommand } from './weights.ts'

/** Parses the arguments and runs the command they name. What a command needs is loaded when it runs. */
export async function programOf(args: readonly string[], world: TrainingWorld): Promise<void> {
  const commands = [
    quickstartCommand(world),
    planCommand(world),
    suggestCommand(world),
    trainCommand(world),
    queueCommand(world),
    launchCommand(world),
    sweepCommand(world),
    ...runCommands(world),
    sampleCommand(world),
    replayCommand(world),
    monitorCommand(world),
    runsCommand(world),
    lineageCommand(world),
    curvesCommand(world),
    alertsCommand(world),
    watchCommand(world),
    webCommand(world),
    reportCommand(world),
    diffCommand(world),
    lintCommand(world),
    stagesCommand(world),
    importCommand(world),
    exportCommand(world),
    configCommand(world),
    dataCommand(world),
    weightsCommand(world),
    parityCommand(world),
    doctorCommand(world),
    scriptCommand(world),
    superviseCommand(world),
    driveQueueCommand(world),
    driveSweepCommand(world),
    driveChainCommand(world),
  ] as unknown as CommandModule[]
  const program = yargs([...args])
    .scriptName('stagewright')
    .usage('$0 <command>\n\nFine-tunes Open-Sora-Plan in stages: plan, train, watch, compare and hand on.')
    .strict()
    .demandCommand(1, '')
    .recommendCommands()
    .wrap(Math.min(100, world.stdout.columns ?? 80))
    .version('version', 'the version of Stagewright', '0.1.0')
    .alias('help', 'h')
    .epilogue('Exit codes: 0 done or same, 1 a negative answer, 2 could not answer.')
    .fail((message, cause) => {
      if (cause) throw cause
      throw usageError(message, args, commands)
    })
  const named = commands.filter((command) => nameOf(command) === args[0])
  for (const command of named.length > 0 ? named : commands) program.command(command)
  leaveHelpUnwritten(program)
  await program.parseAsync()
}

/**
 * Yargs writes the help of each command it runs and keeps it for a failure that nothing handles. `fail` handles all of ours, and that
 * help costs more than listing a weight file. Its own types leave these methods out.
 */
function leaveHelpUnwritten(program: object): void {
  const { getInternalMethods } = program as { getInternalMethods?: () => { getUsageInstance(): { cacheHelpMessage(): void } } }
  const usage = getInternalMethods?.call(program).getUsageInstance()
  if (usage) usage.cacheHelpMessage = () => undefined
}

function nameOf({ command }: CommandModule): string {
  return String(command).split(' ')[0] ?? ''
}

function usageError(message: string, args: readonly string[], commands: readonly CommandModule[]): UserError {
  const names = commands.map(nameOf).filter((name) => !name.startsWith('_'))
  const [first] = args
  if (first === undefined) return new UserError('USAGE', `expected a command: ${names.join(', ')}`, { hint: 'stagewright --help' })
  if (!names.includes(first) && !first.startsWith('-')) {
    const near = nearestName(first, names)
    return new UserError('USAGE', `${first}: expected a command, got none of that name`, {
      hint: near ? `did you mean ${near}?` : 'stagewright --help',
    })
  }
  return new UserError('USAGE', `${first}: ${message || 'expected other arguments'}`, { hint: `stagewright ${first} --help` })
}
