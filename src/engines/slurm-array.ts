import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import type { SlurmSettings } from '../domain/engine-choice.ts'
import type { ArrayPlace, Job, JobArrays, JobHandle, JobPlace } from './engine.ts'
import type { SlurmControl } from './slurm-control.ts'
import { batchScript, demands, quoted, settingsOf } from './slurm-script.ts'
import { shellWord } from './trainer-command.ts'

/*
 * Jobs sent as tasks of one array. Which task a job is stands beside its exit file before the array is sent: with the words in the
 * array's comment it is found by that, whoever sent it and whatever numbers Slurm gave.
 */

/** Which task of which array a job is. */
export interface ArrayTask {
  /** Words no other array has. */
  readonly token: string
  readonly task: number
}

/** Slurm's own limit, where it cannot be asked. */
const usualLargest = 1001

/** Jobs of one array. */
interface Chunk {
  readonly token: string
  readonly jobs: readonly Job[]
  readonly settings: SlurmSettings
}

const fileOf = ({ exitFile }: Pick<JobPlace, 'exitFile'>) => `${exitFile}.array`

function keepTask(place: Pick<JobPlace, 'exitFile'>, { token, task }: ArrayTask): void {
  const path = fileOf(place)
  writeFileSync(`${path}.new`, `${JSON.stringify({ formatVersion: 1, token, task })}\n`, { mode: 0o600 })
  renameSync(`${path}.new`, path)
}

/** The task a job is; undefined for one that was sent alone. */
export function keptTask(place: Pick<JobPlace, 'exitFile'>): ArrayTask | undefined {
  if (!existsSync(fileOf(place))) return undefined
  return JSON.parse(readFileSync(fileOf(place), 'utf8')) as ArrayTask
}

/** Sends jobs as arrays. */
export class SlurmArrays implements JobArrays {
  readonly #control: SlurmControl
  #largest: Promise<number> | undefined

  constructor(control: SlurmControl) {
    this.#control = control
  }

  largest(): Promise<number> {
    this.#largest ??= this.#maxArraySize()
    return this.#largest
  }

  async render(jobs: readonly Job[], place: ArrayPlace): Promise<string[]> {
    return chunked(jobs, await this.largest()).map((chunk) => arrayScript(chunk, place))
  }

  /** An array begins when the one before is over, so that no more run at a time than were asked for. */
  async submit(jobs: readonly Job[], place: ArrayPlace): Promise<PromiseSettledResult<JobHandle>[]> {
    const results = new Map<Job, PromiseSettledResult<JobHandle>>()
    let before: string | undefined
    for (const chunk of chunked(jobs, await this.largest())) {
      try {
        const id = await this.#sent(chunk, place, before)
        for (const [task, job] of chunk.jobs.entries())
          results.set(job, { status: 'fulfilled', value: { kind: 'slurm', jobId: `${id}_${task}` } })
        before = id
      } catch (reason) {
        for (const job of chunk.jobs) results.set(job, { status: 'rejected', reason })
      }
    }
    return jobs.flatMap((job) => results.get(job) ?? [])
  }

  async #sent(chunk: Chunk, place: ArrayPlace, after: string | undefined): Promise<string> {
    const { token, jobs, settings } = chunk
    const script = arrayFile(chunk, place)
    for (const job of jobs) writeFileSync(job.script, batchScript(job, settings), { mode: 0o700 })
    writeFileSync(script, arrayScript(chunk, place), { mode: 0o700 })
    for (const [task, job] of jobs.entries()) keepTask(job, { token, task })
    const options = after === undefined ? [] : [`--dependency=afterany:${after}`]
    return this.#control.sent({ script, options, holds: (job) => job.token === token, exitFiles: jobs.map(({ exitFile }) => exitFile) })
  }

  async #maxArraySize(): Promise<number> {
    const { stdout } = await this.#control.run('scontrol', ['show', 'config']).catch(() => ({ stdout: '' }))
    return Number(/^MaxArraySize\s*=\s*(\d+)/m.exec(stdout)?.[1] ?? usualLargest)
  }
}

/** Jobs by what they ask of the cluster, which is the same in all of an array, and not more in each than an array may have. */
function chunked(jobs: readonly Job[], most: number): Chunk[] {
  const alike = new Map<string, Job[]>()
  for (const job of jobs) {
    const key = demands(job, settingsOf(job)).join('\n')
    alike.set(key, [...(alike.get(key) ?? []), job])
  }
  return [...alike.values()].flatMap((same) =>
    Array.from({ length: Math.ceil(same.length / most) }, (_, at) => {
      const [first, ...others] = same.slice(at * most, (at + 1) * most)
      if (!first) throw new Error('an array without jobs')
      return { token: `array:${first.token}`, jobs: [first, ...others], settings: settingsOf(first) }
    }),
  )
}

/** Where the script of an array is kept. */
function arrayFile({ jobs: [first] }: Chunk, { folder }: ArrayPlace): string {
  return join(folder, `array-${basename(first?.runFolder ?? '')}-${first?.attempt}.sbatch`)
}

/** The script of an array: each task becomes the script of its own job. */
function arrayScript({ token, jobs, settings }: Chunk, { folder, atATime }: ArrayPlace): string {
  const [first] = jobs
  if (!first) throw new Error('an array without jobs')
  const options = [
    `--job-name=${quoted(`sw-${basename(folder)}`)}`,
    `--comment=${quoted(token)}`,
    `--array=0-${jobs.length - 1}%${atATime}`,
    `--output=${quoted(join(folder, 'arrays.log').replaceAll('%', '%%'))}`,
    '--open-mode=append',
    `--chdir=${quoted(folder)}`,
    ...demands(first, settings),
  ]
  return [
    '#!/bin/bash',
    ...options.map((option) => `#SBATCH ${option}`),
    '',
    '# Written by Stagewright: the script and the log of each task.',
    'scripts=(',
    ...jobs.map(({ script }) => `  ${shellWord(script)}`),
    ')',
    'logs=(',
    ...jobs.map(({ log }) => `  ${shellWord(log)}`),
    ')',
    // biome-ignore lint/suspicious/noTemplateCurlyInString: it is the shell's
    'script=${scripts[$SLURM_ARRAY_TASK_ID]} log=${logs[$SLURM_ARRAY_TASK_ID]}',
    'cd "$(dirname "$script")" && exec bash "$script" >> "$log" 2>&1',
    '',
  ].join('\n')
}
