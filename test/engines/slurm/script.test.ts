import { spawnSync } from 'node:child_process'
import { describe, expect, test } from 'vitest'
import { slurmSettings } from '../../../src/domain/engine-choice.ts'
import type { Job } from '../../../src/engines/engine.ts'
import { batchScript } from '../../../src/engines/slurm-script.ts'

const job: Job = {
  runFolder: '/shared/runs/one',
  attempt: 2,
  engine: 'slurm',
  token: 'one:2:ab12',
  exitFile: '/shared/runs/one/exit-2.json',
  choice: { formatVersion: 1, kind: 'slurm', slurm: slurmSettings.parse({}) },
  processes: 8,
  nodes: 1,
  wantsGpus: true,
  threads: null,
  python: '/env/bin/python',
  pythonPath: '/package/python',
  log: '/shared/runs/one/logs/attempt-2.log',
  script: '/shared/runs/one/attempt-2.sbatch',
}
const scriptOf = (settings: object = {}, change: Partial<Job> = {}) => batchScript({ ...job, ...change }, slurmSettings.parse(settings))
const optionsOf = (script: string) => script.split('\n').flatMap((line) => /^#SBATCH (.*)/.exec(line)?.[1] ?? [])

describe('the batch script of a job', () => {
  test('asks for what was set, one GPU a rank, and nothing else', () => {
    expect(optionsOf(scriptOf())).toEqual([
      '--job-name=sw-one',
      '--comment=one:2:ab12',
      '--output=/shared/runs/one/logs/attempt-2.log',
      '--open-mode=append',
      '--chdir=/shared/runs/one',
      '--nodes=1',
      '--ntasks-per-node=1',
      '--gres=gpu:8',
      '--requeue',
      '--signal=B:USR1@180',
    ])
    const settings = { partition: 'a100', account: 'lab', time: '04:00:00', memory: '200G', gres: 'gpu:a100:8', requeue: false }
    expect(optionsOf(scriptOf({ ...settings, options: ['--exclusive'], constraint: 'a|b' }, { threads: 2 }))).toEqual(
      expect.arrayContaining([
        '--partition=a100',
        '--account=lab',
        '--time=04:00:00',
        '--mem=200G',
        '--gres=gpu:a100:8',
        '--cpus-per-task=16',
        '--constraint="a|b"',
        '--no-requeue',
        '--exclusive',
      ]),
    )
    expect(optionsOf(scriptOf({}, { wantsGpus: false })).join()).not.toContain('gres')
  })

  test('starts one launcher per machine, which meet at the first', () => {
    const script = scriptOf({ setup: ['module load cuda'], srunOptions: ['--mpi=none'] }, { nodes: 3, processes: 2 })
    expect(script).toContain('srun --kill-on-bad-exit=1 --nodes=3 --ntasks=3 --ntasks-per-node=1 --mpi=none')
    expect(script).toContain(
      `--nnodes=3 --node-rank="$SLURM_NODEID" --master-addr="$1" --master-port="$2" --nproc-per-node=2 --max-restarts=0 -m osplan train /shared/runs/one --attempt=2' launcher "$address" "$port"`,
    )
    expect(script).toContain('\nmodule load cuda\n')
  })

  test('is a program bash takes, whatever the folder is called', () => {
    for (const name of ['one', 'with space', "it's $HOME", 'ünï%j']) {
      const script = scriptOf(
        {},
        { nodes: 2, runFolder: `/shared/${name}`, exitFile: `/shared/${name}/exit-2.json`, log: `/shared/${name}/log` },
      )
      expect(spawnSync('bash', ['-n'], { input: script })).toMatchObject({ status: 0 })
    }
    expect(optionsOf(scriptOf({}, { log: '/a/%j' }))).toContain('--output=/a/%%j')
    expect(() => scriptOf({}, { runFolder: '/shared/a"b' })).toThrow(/without quotes/)
  })

  test('refuses settings that would be other lines or options', () => {
    for (const wrong of [
      { partition: 'a b' },
      { options: ['-p x'] },
      { setup: ['a\nb'] },
      { time: 'soon' },
      { leadSeconds: 0 },
      { partiton: 'x' },
    ]) {
      expect(slurmSettings.safeParse(wrong).success).toBe(false)
    }
  })
})
