import { basename, join } from 'node:path'
import type { SlurmSettings } from '../domain/engine-choice.ts'
import { UserError } from '../domain/errors.ts'
import type { Job } from './engine.ts'
import { launchCommand, shellWord, trainerEnvironment } from './trainer-command.ts'

/*
 * The batch script of a job: what sbatch is asked for, and a shell program that starts one launcher per machine and
 * turns Slurm's signals into a request the trainer understands.
 */

/** What was chosen for a job of this engine. */
export function settingsOf({ choice }: Job): SlurmSettings {
  if (choice.kind !== 'slurm') throw new Error(`a ${choice.kind} job was sent to Slurm`)
  return choice.slurm
}

/** The script of one job, as it is kept beside the run. */
export function batchScript(job: Job, settings: SlurmSettings): string {
  return ['#!/bin/bash', ...directives(job, settings).map((option) => `#SBATCH ${option}`), ...body(job, settings), ''].join('\n')
}

function directives(job: Job, settings: SlurmSettings): string[] {
  return [
    `--job-name=${quoted(`sw-${basename(job.runFolder)}`)}`,
    `--comment=${quoted(job.token)}`,
    `--output=${quoted(job.log.replaceAll('%', '%%'))}`,
    '--open-mode=append',
    `--chdir=${quoted(job.runFolder)}`,
    ...demands(job, settings),
  ]
}

/** What a job asks of the cluster, whichever job it is. */
export function demands(job: Job, settings: SlurmSettings): string[] {
  const { partition, account, qos, time, memory, constraint } = settings
  const named = { partition, account, qos, time, mem: memory, constraint: constraint === null ? null : quoted(constraint) }
  const cpus = settings.cpusPerTask ?? (job.threads === null ? null : job.threads * job.processes)
  const gres = settings.gres ?? (job.wantsGpus ? `gpu:${job.processes}` : null)
  return [
    `--nodes=${job.nodes}`,
    '--ntasks-per-node=1',
    ...(cpus === null ? [] : [`--cpus-per-task=${cpus}`]),
    ...(gres === null ? [] : [`--gres=${gres}`]),
    ...Object.entries(named).flatMap(([name, value]) => (value === null ? [] : [`--${name}=${value}`])),
    settings.requeue ? '--requeue' : '--no-requeue',
    `--signal=B:USR1@${settings.leadSeconds}`,
    ...settings.options,
  ]
}

function body(job: Job, settings: SlurmSettings): string[] {
  const exports = Object.entries(trainerEnvironment(job)).map(([name, value]) => `export ${name}=${shellWord(value)}`)
  return [
    '',
    '# Written by Stagewright; `stagewright continue` writes a new one.',
    `run=${shellWord(job.runFolder)}`,
    `attempt=${job.attempt}`,
    `exit_file=${shellWord(job.exitFile)}`,
    `python=${shellWord(job.python)}`,
    `journal=${shellWord(join(job.runFolder, 'trainer.jsonl'))}`,
    `claim=${shellWord(`${job.exitFile}.claim`)}`,
    ...exports,
    ...settings.setup,
    prologue,
    ...(job.nodes === 1 ? [] : [meeting]),
    `srun ${['--kill-on-bad-exit=1', `--nodes=${job.nodes}`, `--ntasks=${job.nodes}`, '--ntasks-per-node=1', ...settings.srunOptions].join(' ')} \\`,
    `  \${SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK} ${launcherOf(job)} &`,
    `${wait}\n${fence}`,
    ...(settings.requeue ? [requeue] : []),
    epilogue,
  ]
}

/** The launcher of each machine; with several, a shell there fills in which one it is. */
function launcherOf(job: Job): string {
  if (job.nodes === 1)
    return launchCommand(job)
      .map((word) => shellWord(word))
      .join(' ')
  const words = launchCommand(job, { host: '"$1"', port: '"$2"', nodeRank: '"$SLURM_NODEID"' })
  // The places of the meeting stay for the shell; everything else is a word.
  const line = words.map((word) => (/^--(node-rank|master-addr|master-port)=/.test(word) ? word : shellWord(word))).join(' ')
  return `bash -c ${shellWord(`exec ${line}`)} launcher "$address" "$port"`
}

/**
 * A second job of the same attempt (sent twice, because the controller did not answer) leaves it to the first; one that comes
 * after the end leaves it as it is. The request of an earlier start must not reach this one.
 */
const prologue = `
[ ! -e "$exit_file" ] || { echo "attempt $attempt has ended already"; exit 0; }
(set -C; echo "$SLURM_JOB_ID" > "$claim") 2> /dev/null
owner=$(cat "$claim")
[ "$owner" = "$SLURM_JOB_ID" ] || { echo "job $owner has this attempt already"; exit 0; }
start="$SLURM_JOB_ID \${SLURM_RESTART_COUNT:-0}"
# The number of one task is that of its whole array, too.
job=$SLURM_JOB_ID
[ -z "$SLURM_ARRAY_JOB_ID" ] || job="\${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
echo "$start" > "$claim.$SLURMD_NODENAME" && mv "$claim.$SLURMD_NODENAME" "$claim.start"
rm -f "$run"/commands/slurm-*.json "$run"/logs/rank-*.failed.txt
request="slurm-$SLURM_JOB_ID-\${SLURM_RESTART_COUNT:-0}"
asked= ended= interrupted=
# The trainer takes the request at a step boundary, on all ranks at the same one, and ends with a checkpoint.
ask() {
  interrupted=1
  [ -z "$asked" ] || return 0
  asked=1
  echo "Slurm will take the machines back: asking for a checkpoint"
  printf '{"id":"%s","name":"pause","by":"Slurm job %s","reason":"preempted, or near the time limit"}' "$request" "$SLURM_JOB_ID" > "$run/commands/$request.tmp"
  mv "$run/commands/$request.tmp" "$run/commands/$request.json"
}
trap ask USR1
# Slurm sends TERM to the launchers itself; this shell only must outlive them.
trap 'interrupted=1; ended=1' TERM`

const meeting = `
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(scontrol show node "$head" | sed -n 's/.*NodeAddr=\\([^ ]*\\).*/\\1/p' | head -n 1)
address=\${address:-$head}
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')`

/** A signal interrupts `wait`, which then does not tell the launchers' status and is called again; 127 means that it has told it already. */
const wait = `launchers=$!
rc=
while :; do
  interrupted= before=$rc
  wait "$launchers"; rc=$?
  [ "$rc" -ne 127 ] || rc=\${before:-127}
  [ -n "$interrupted" ] || break
done`

/** A start on a machine that Slurm gave up for lost may outlive it: by then the attempt is another's, who alone says how it ends. */
const fence = `
[ "$(cat "$claim.start")" = "$start" ] || { echo "this attempt was started again elsewhere"; exit 0; }`

/** Starts one after another that leave no newer checkpoint, after which the job is not put back: it would come no further for ever. */
const mostFutile = 3

/**
 * Back into the queue where Slurm took the machines and the trainer left a checkpoint. While it was only paused by a person, completed
 * or failed, that is an end.
 */
const requeue = `
how=$(tail -n 200 "$journal" 2> /dev/null | grep '"event":"finished"' | tail -n 1)
taken=
case "$how" in
  *'"reason":"paused"'*) tail -n 200 "$journal" | grep -F "\\"id\\":\\"$request\\"" | grep -qF '"status":"applied"' && taken=1 ;;
  *'"reason":"killed"'*) [ -n "$asked" ] && taken=1; scontrol show job "$job" | grep -q 'PreemptTime=[0-9]' && taken=1 ;;
esac
if [ -n "$taken" ]; then
  newest=$(ls "$run/checkpoints" | grep '^step-' | tail -n 1)
  read -r before futile < "$claim.progress" 2> /dev/null
  [ "\${before:-none}" = "\${newest:-none}" ] && futile=$((\${futile:-0} + 1)) || futile=0
  echo "\${newest:-none} $futile" > "$claim.progress"
  if [ "$futile" -ge ${mostFutile} ]; then
    printf '{"formatVersion":1,"exitCode":%d,"futile":%d}\\n' "$rc" "$futile" > "$exit_file.tmp" && mv "$exit_file.tmp" "$exit_file"
    exit "$rc"
  fi
fi
if [ -n "$taken" ] && scontrol requeue "$job"; then
  trap - TERM
  sleep 600 & wait $!
fi`

/**
 * A job that Slurm puts back into the queue, for a lost machine or because somebody asked, has not ended. It must wait to be killed:
 * Slurm takes a script that ends by itself then for cancelled. Where the controller does not answer, the launchers' end is one.
 */
const epilogue = `
state=$(scontrol show job "$job" 2> /dev/null | sed -n 's/.*JobState=\\([A-Z_]*\\).*/\\1/p' | head -n 1)
case "$state" in
  PENDING | REQUEUE*) trap - TERM; sleep 600 & wait $! ;;
  "") [ -z "$ended" ] || exit "$rc" ;;
esac
printf '{"formatVersion":1,"exitCode":%d}\\n' "$rc" > "$exit_file.tmp" && mv "$exit_file.tmp" "$exit_file"
exit "$rc"`

/** A value for a line of #SBATCH, which ends at the line's end and knows double quotes. */
export function quoted(value: string): string {
  if (/[\n\r"\\]/.test(value)) {
    throw new UserError('SLURM_PATH', `${value}: expected a path without quotes, backslashes and line ends for Slurm, got one with them`, {
      hint: 'put the runs into another folder (--runs)',
    })
  }
  return /^[\w@%+=:,./-]+$/.test(value) ? value : `"${value}"`
}
