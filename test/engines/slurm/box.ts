import { execFileSync, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { processesWhere } from '../../../src/engines/process-identity.ts'

/*
 * A whole Slurm cluster on this machine: a controller, two nodes with two CPUs and two GPUs that are none, and munge, from a temporary
 * folder. Partition `low` can be preempted by `high`.
 */

const programs = ['munged', 'slurmctld', 'slurmd', 'sbatch', 'squeue', 'scontrol', 'scancel']
const sbin = `${process.env.PATH}:/usr/sbin:/usr/local/sbin`

/** Why no cluster can be started here; undefined where one can. */
export function whyNoSlurm(): string | undefined {
  if (process.platform !== 'linux') return 'Slurm runs on Linux'
  if (process.getuid?.() !== 0) return 'Slurm’s daemons want to be root here'
  const missing = programs.filter((name) => spawnSync('sh', ['-c', `command -v ${name}`], { env: { PATH: sbin } }).status !== 0)
  return missing.length === 0 ? undefined : `${missing.join(', ')} missing: apt-get install slurm-wlm munge`
}

export class SlurmBox {
  readonly folder = mkdtempSync(join(tmpdir(), 'slurm-'))
  /** What a program needs in its environment to speak to this cluster. */
  readonly env: Record<string, string> = {
    ...(process.env as Record<string, string>),
    PATH: sbin,
    SLURM_CONF: join(this.folder, 'slurm.conf'),
  }

  static async start(): Promise<SlurmBox> {
    const box = new SlurmBox()
    const [controller = 0, ...nodes] = await freePorts(3)
    for (const name of ['state', 'spool.n1', 'spool.n2']) mkdirSync(join(box.folder, name))
    writeFileSync(join(box.folder, 'munge.key'), randomBytes(128), { mode: 0o600 })
    writeFileSync(join(box.folder, 'slurm.conf'), configuration(box.folder, controller, nodes))
    writeFileSync(join(box.folder, 'gres.conf'), devices)
    const munge = ['key-file', 'socket', 'pid-file', 'log-file', 'seed-file'].map(
      (name) => `--${name}=${join(box.folder, mungeFiles[name] ?? '')}`,
    )
    box.run('munged', '--force', ...munge)
    await box.startController()
    for (const name of ['n1', 'n2']) box.run('slurmd', '-f', box.env.SLURM_CONF ?? '', '-N', name)
    await box.until(() => box.run('sinfo', '-h', '-t', 'idle', '-o', '%D').trim() === '2', 'two idle nodes')
    return box
  }

  run(program: string, ...args: string[]): string {
    return execFileSync(program, args, { env: this.env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
  }

  async startController(): Promise<void> {
    this.run('slurmctld', '-f', this.env.SLURM_CONF ?? '')
    await this.until(() => spawnSync('scontrol', ['ping'], { env: this.env, encoding: 'utf8' }).stdout.includes('UP'), 'the controller')
  }

  /** The controller as a power cut leaves it. It writes its state each few seconds, and forgets what came after: that is waited for. */
  async killController(): Promise<void> {
    const since = Date.now()
    await this.until(() => savedAt(this.folder) > since, 'its state')
    const pid = Number(readFileSync(join(this.folder, 'slurmctld.pid'), 'utf8'))
    process.kill(pid, 'SIGKILL')
  }

  /** A signal for the daemon of one node; its jobs do not get it. */
  signalNode(node: string, signal: 'SIGSTOP' | 'SIGCONT'): void {
    process.kill(Number(readFileSync(join(this.folder, `slurmd.${node}.pid`), 'utf8')), signal)
  }

  /** USR1 for a job's batch shell, as near a time limit. Slurm delivers it, and `scancel` then may ask again for a minute and a half. */
  askBatch(job: string): void {
    spawnSync('scancel', ['--batch', '--signal=USR1', job], { env: this.env, timeout: 3000 })
  }

  /** Numbers of the jobs that wait or run. */
  jobs(): string[] {
    return this.run('squeue', '-h', '-o', '%i').split('\n').filter(Boolean)
  }

  state(job: string): string {
    return /JobState=(\w+)/.exec(this.run('scontrol', 'show', 'job', job))?.[1] ?? ''
  }

  async until(isSo: () => boolean, what: string, seconds = 20): Promise<void> {
    const until = Date.now() + seconds * 1000
    while (!isSo()) {
      if (Date.now() > until) throw new Error(`${what} did not come within ${seconds} s`)
      await sleep(50)
    }
  }

  /** Nothing runs or waits any more, and both nodes take jobs again, whatever a test left behind. */
  async clear(): Promise<void> {
    const ask = (program: string, ...args: string[]) => spawnSync(program, args, { env: this.env, encoding: 'utf8' }).stdout ?? ''
    if (!ask('scontrol', 'ping').includes('UP')) await this.startController()
    await this.until(
      () => {
        for (const job of this.jobs()) ask('scancel', job)
        ask('scontrol', 'update', 'NodeName=n[1-2]', 'State=RESUME')
        return this.jobs().length === 0 && ask('sinfo', '-h', '-t', 'idle', '-o', '%D').trim() === '2'
      },
      'a cluster with nothing to do',
      40,
    )
  }

  async stop(): Promise<void> {
    spawnSync('scancel', ['--full', '--signal=KILL', '-u', 'root'], { env: this.env })
    for (const name of ['slurmctld.pid', 'slurmd.n1.pid', 'slurmd.n2.pid', 'munged.pid']) {
      const file = join(this.folder, name)
      if (existsSync(file)) spawnSync('kill', ['-9', readFileSync(file, 'utf8').trim()])
    }
    for (const { pid } of processesWhere((words) => words.some((word) => word.includes(this.folder))))
      spawnSync('kill', ['-9', String(pid)])
    rmSync(this.folder, { recursive: true, force: true, maxRetries: 5 })
  }
}

const savedAt = (folder: string) => statSync(join(folder, 'state', 'job_state'), { throwIfNoEntry: false })?.mtimeMs ?? 0

const mungeFiles: Readonly<Record<string, string>> = {
  'key-file': 'munge.key',
  socket: 'munge.sock',
  'pid-file': 'munged.pid',
  'log-file': 'munged.log',
  'seed-file': 'munged.seed',
}

function configuration(folder: string, controller: number, nodes: readonly number[]): string {
  const host = hostname()
  return `
ClusterName=box
SlurmctldHost=${host}(127.0.0.1)
SlurmctldPort=${controller}
AuthType=auth/munge
AuthInfo=socket=${folder}/munge.sock
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=${folder}/state
SlurmdSpoolDir=${folder}/spool.%n
SlurmctldPidFile=${folder}/slurmctld.pid
SlurmdPidFile=${folder}/slurmd.%n.pid
SlurmctldLogFile=${folder}/slurmctld.log
SlurmdLogFile=${folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=100000
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=0
MpiDefault=none
# The machine may have fewer CPUs and less memory than its nodes say.
SlurmdParameters=config_overrides
KillWait=3
MessageTimeout=2
MinJobAge=600
# Small, so that a sweep takes several arrays.
MaxArraySize=4
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
GresTypes=gpu
${nodes.map((port, at) => `NodeName=n${at + 1} NodeHostname=${host} NodeAddr=127.0.0.1 Port=${port} ${machine}`).join('\n')}
PartitionName=low Nodes=n[1-2] Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=20 MaxTime=INFINITE State=UP
PartitionName=high Nodes=n[1-2] PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
`
}

const machine = 'CPUs=8 Boards=1 SocketsPerBoard=1 CoresPerSocket=8 ThreadsPerCore=1 RealMemory=4000 Gres=gpu:2'

const devices = `
NodeName=n1 Name=gpu File=/dev/null,/dev/zero
NodeName=n2 Name=gpu File=/dev/full,/dev/random
`

async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer())
  const ports = await Promise.all(
    servers.map((server) => new Promise<number>((resolve) => server.listen(0, () => resolve((server.address() as { port: number }).port)))),
  )
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))))
  return ports
}
