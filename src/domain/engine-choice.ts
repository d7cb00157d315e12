import { z } from 'zod'
import { formatVersion } from './protocol.ts'

/*
 * Where a run trains. It belongs to the run and not to the stage: the same stage on another machine is the same training.
 */

const line = z.string().regex(/^[^\n\r\0]*$/, 'expected one line of text')
/** A word or a list of words, as Slurm's options take them. */
const word = line.regex(/^[\w.,:/*@%+=[\]&|()-]+$/, 'expected a word without spaces or quotes')
const count = z.int().positive()

/** What a Slurm cluster is asked for; null leaves it to the cluster. */
export const slurmSettings = z.strictObject({
  partition: word.nullable().default(null),
  account: word.nullable().default(null),
  qos: word.nullable().default(null),
  /** Time limit as Slurm writes it: minutes, HH:MM:SS or D-HH:MM:SS. */
  time: z
    .string()
    .regex(/^(\d+-)?\d+(:\d\d){0,2}$/, 'expected minutes, HH:MM:SS or D-HH:MM:SS')
    .nullable()
    .default(null),
  /** Generic resources per node, such as `gpu:a100:8`; null asks for one GPU a rank, or none where the stage trains on the CPU. */
  gres: word.nullable().default(null),
  cpusPerTask: count.nullable().default(null),
  /** Memory per node, such as `200G`; 0 is all of it. */
  memory: z
    .string()
    .regex(/^\d+[KMGT]?$/, 'expected a number with K, M, G or T')
    .nullable()
    .default(null),
  constraint: line.nullable().default(null),
  /** Any other options of sbatch, such as `--exclusive`. */
  options: z.array(line.regex(/^--/, 'expected an option that begins with --')).default([]),
  /** Further options of the srun that starts one launcher per node. */
  srunOptions: z.array(word).default([]),
  /** Shell lines before the launcher, such as `module load cuda`. */
  setup: z.array(line).default([]),
  /** Whether the job goes back into the queue when it is preempted, loses a node or reaches its time limit. */
  requeue: z.boolean().default(true),
  /** Seconds before the time limit at which all ranks are asked for a checkpoint. */
  leadSeconds: count.default(180),
})
export type SlurmSettings = z.output<typeof slurmSettings>

/** `engine.json` of a run. */
export const engineChoice = z.discriminatedUnion('kind', [
  z.strictObject({
    formatVersion: z.literal(formatVersion),
    kind: z.literal('local'),
    /** GPUs of this machine to use, as CUDA_VISIBLE_DEVICES names them; all where it is not said. */
    devices: z.array(z.string()).optional(),
    /** Where the launchers of several machines meet; this is the first of them. */
    meeting: z.strictObject({ host: z.string(), port: z.string() }).optional(),
  }),
  z.strictObject({ formatVersion: z.literal(formatVersion), kind: z.literal('slurm'), slurm: slurmSettings }),
])
export type EngineChoice = z.output<typeof engineChoice>
