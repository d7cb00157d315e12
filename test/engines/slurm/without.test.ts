import { chmodSync, existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { slurmSettings } from '../../../src/domain/engine-choice.ts'
import type { Job } from '../../../src/engines/engine.ts'
import { SlurmEngine } from '../../../src/engines/slurm.ts'

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'slurmless-'))
})
afterEach(() => rmSync(folder, { recursive: true }))

const jobIn = (place: string): Job => ({
  runFolder: place,
  attempt: 1,
  engine: 'slurm',
  token: 'run:1:ab',
  exitFile: join(place, 'exit-1.json'),
  choice: { formatVersion: 1, kind: 'slurm', slurm: slurmSettings.parse({}) },
  processes: 1,
  nodes: 1,
  wantsGpus: false,
  threads: null,
  python: 'python',
  pythonPath: place,
  log: join(place, 'log'),
  script: join(place, 'attempt-1.sbatch'),
})

/** A command of Slurm's that says and does what a text tells it. */
function command(name: string, text: string): void {
  writeFileSync(join(folder, name), `#!/bin/sh\n${text}\n`)
  chmodSync(join(folder, name), 0o700)
}

describe('where Slurm cannot be asked', () => {
  test('a job is not seen, which is not gone, until its exit file is there', async () => {
    const engine = new SlurmEngine({ PATH: folder })
    const job = jobIn(folder)
    expect(await engine.observe({ kind: 'slurm', jobId: '1' }, job)).toMatchObject({ state: 'unseen', untilSilent: false })
    writeFileSync(job.exitFile, '{"formatVersion":1,"exitCode":0}')
    expect(await engine.observe({ kind: 'slurm', jobId: '1' }, job)).toMatchObject({ state: 'ended', exitCode: 0 })
  })

  test('nothing is sent, and what is missing is said', async () => {
    await expect(new SlurmEngine({ PATH: folder }).submit(jobIn(folder))).rejects.toMatchObject({ code: 'SLURM_MISSING' })
  })

  test('a job that nobody answers for is given up after a while, so that one that arrives after all does not train', async () => {
    command('sbatch', 'echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2; exit 1')
    command('squeue', `echo '{"errors":[{"description":"no answer"}],"jobs":[]}'`)
    const engine = new SlurmEngine({ PATH: `${folder}:/bin:/usr/bin` }, { patienceSeconds: 0 })
    await expect(engine.submit(jobIn(folder))).rejects.toMatchObject({ code: 'SLURM_UNREACHABLE' })
    expect(existsSync(jobIn(folder).exitFile)).toBe(true)
  })

  test('a job whose sending timed out and which arrived is not sent again', async () => {
    command('sbatch', `echo sent >> ${folder}/sent; echo "sbatch: error: Socket timed out on send/recv operation" >&2; exit 1`)
    const arrived = { job_id: 7, job_state: 'PENDING', state_reason: 'None', comment: 'run:1:ab', array_job_id: 0, array_task_id: null }
    command('squeue', `echo '${JSON.stringify({ errors: [], jobs: [{ ...arrived, eligible_time: 0, end_time: 0, restart_cnt: 0 }] })}'`)
    const engine = new SlurmEngine({ PATH: `${folder}:/bin:/usr/bin` })
    expect(await engine.submit(jobIn(folder))).toEqual({ kind: 'slurm', jobId: '7' })
  })
})
