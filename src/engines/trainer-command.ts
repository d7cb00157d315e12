import type { Job } from './engine.ts'

export const launcherModule = 'torch.distributed.run'

/** Where the launchers of several machines meet: the first one listens there. */
export interface Rendezvous {
  readonly host: string
  readonly port: string
  /** Which of the machines this is, from 0; text, because a shell may fill it in. */
  readonly nodeRank: string
}

/** The torchrun line of a job on one of its machines. Ranks are numbered by machine, so that a job that goes on has each where it was. */
export function launchCommand(job: Pick<Job, 'python' | 'nodes' | 'processes' | 'runFolder' | 'attempt'>, meeting?: Rendezvous): string[] {
  const place = meeting
    ? [`--nnodes=${job.nodes}`, `--node-rank=${meeting.nodeRank}`, `--master-addr=${meeting.host}`, `--master-port=${meeting.port}`]
    : ['--standalone', '--nnodes=1']
  const trainer = ['-m', 'osplan', 'train', job.runFolder, `--attempt=${job.attempt}`]
  return [job.python, '-m', launcherModule, ...place, `--nproc-per-node=${job.processes}`, '--max-restarts=0', ...trainer]
}

/** What the trainer needs in its environment. */
export function trainerEnvironment(job: Pick<Job, 'threads' | 'pythonPath'>): Record<string, string> {
  return {
    ...(job.threads === null ? {} : { OMP_NUM_THREADS: String(job.threads) }),
    PYTHONPATH: job.pythonPath,
    PYTHONUNBUFFERED: '1',
    PYTHONDONTWRITEBYTECODE: '1',
    TOKENIZERS_PARALLELISM: 'false',
  }
}

/** A word for a shell. With `fills`, what begins with a dollar sign is for the shell to fill in. */
export function shellWord(word: string, options: { fills?: boolean } = {}): string {
  const isPlain = options.fills ? /^[\w@%+=:,./$-]+$/ : /^[\w@%+=:,./-]+$/
  return isPlain.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`
}
