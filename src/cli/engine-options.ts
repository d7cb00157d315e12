/** `--engine`, `--slurm` and `--engines`, shared by every command that starts a run. */
export const engineOptions = {
  engine: { type: 'string', describe: 'where to train: local, slurm, or a name of engines.yaml' },
  slurm: {
    type: 'string',
    array: true,
    nargs: 1,
    default: [] as string[],
    describe: 'name=value for Slurm: partition, account, time, gres, memory, options…',
  },
  engines: { type: 'string', describe: 'engine file (STAGEWRIGHT_ENGINES, or engines.yaml here)' },
} as const

export interface EngineOptions {
  engine?: string | undefined
  slurm?: string[]
  engines?: string | undefined
}
