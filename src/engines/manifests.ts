import { stringify } from 'yaml'
import { z } from 'zod'
import type { Job } from './engine.ts'
import { launchCommand, type Rendezvous, shellWord, trainerEnvironment } from './trainer-command.ts'

/*
 * Manifests for clusters that Stagewright does not drive: what they would start is the same line as anywhere else. They are rendered and
 * checked against the parts of each schema they use; nothing here has run them.
 */

export const manifestKinds = ['kubernetes', 'jobset', 'skypilot'] as const
export type ManifestKind = (typeof manifestKinds)[number]

/** What a manifest needs to know beside the job. */
export interface ManifestPlace {
  /** Container image with the trainer's packages. */
  readonly image: string
  /** Volume claim (Kubernetes) or bucket (SkyPilot) that holds the runs. */
  readonly storage: string
  /** Folder it is mounted at: that of the runs. */
  readonly mount: string
  /** Kind of GPU, as SkyPilot names it. */
  readonly accelerator: string
}

const port = '29500'
const label = z
  .string()
  .max(63)
  .regex(/^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/)
const name = z.strictObject({ name: label })
const env = z.array(z.strictObject({ name: z.string(), value: z.string() }))
const container = z.strictObject({
  name: label,
  image: z.string().min(1),
  command: z.array(z.string()).min(1),
  env,
  resources: z.strictObject({ limits: z.record(z.string(), z.union([z.string(), z.int()])) }).optional(),
  volumeMounts: z.array(z.strictObject({ name: label, mountPath: z.string().regex(/^\//) })),
})
const pod = z.strictObject({
  restartPolicy: z.enum(['Never', 'OnFailure']).optional(),
  containers: z.array(container).length(1),
  volumes: z.array(z.strictObject({ name: label, persistentVolumeClaim: z.strictObject({ claimName: label }) })),
})
const replica = z.strictObject({
  replicas: z.int().positive(),
  restartPolicy: z.enum(['OnFailure', 'Never', 'Always', 'ExitCode']),
  template: z.strictObject({ spec: pod }),
})

/** The parts of each schema that are used: Kubeflow's PyTorchJob v1, JobSet v1alpha2, SkyPilot's task. */
const schemas = {
  kubernetes: z.strictObject({
    apiVersion: z.literal('kubeflow.org/v1'),
    kind: z.literal('PyTorchJob'),
    metadata: name,
    spec: z.strictObject({
      nprocPerNode: z.string(),
      runPolicy: z.strictObject({ cleanPodPolicy: z.enum(['Running', 'All', 'None']), backoffLimit: z.int().nonnegative() }),
      pytorchReplicaSpecs: z.strictObject({ Master: replica, Worker: replica.optional() }),
    }),
  }),
  jobset: z.strictObject({
    apiVersion: z.literal('jobset.x-k8s.io/v1alpha2'),
    kind: z.literal('JobSet'),
    metadata: name,
    spec: z.strictObject({
      failurePolicy: z.strictObject({ maxRestarts: z.int().nonnegative() }),
      replicatedJobs: z
        .array(
          z.strictObject({
            name: label,
            replicas: z.literal(1),
            template: z.strictObject({
              spec: z.strictObject({
                parallelism: z.int().positive(),
                completions: z.int().positive(),
                completionMode: z.literal('Indexed'),
                backoffLimit: z.literal(0),
                template: z.strictObject({ spec: pod }),
              }),
            }),
          }),
        )
        .length(1),
    }),
  }),
  skypilot: z.strictObject({
    name: label,
    num_nodes: z.int().positive(),
    resources: z.strictObject({ image_id: z.string().regex(/^docker:/), accelerators: z.string().optional() }),
    file_mounts: z.record(z.string().regex(/^\//), z.strictObject({ source: z.string(), mode: z.literal('MOUNT') })),
    envs: z.record(z.string(), z.string()),
    run: z.string(),
  }),
}

/** The manifest of a job as YAML, with a first line that says what it is. */
export function manifestOf(kind: ManifestKind, job: Job, place: ManifestPlace): string {
  const manifest = schemas[kind].parse({ kubernetes: pytorchJob, jobset: jobSet, skypilot: skyTask }[kind](job, place))
  return `# Rendered by Stagewright for attempt ${job.attempt} of a run, checked against the schema, not run here.\n${stringify(manifest, { lineWidth: 0 })}`
}

/** A run's id as Kubernetes takes names. */
function labelOf(job: Job): string {
  const words = job.token
    .split(':')
    .slice(0, 2)
    .join('-')
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, '-')
  return `sw-${words}`.slice(0, 50).replace(/-+$/, '')
}

function lineOf(job: Job, meeting: Rendezvous): string[] {
  const words = job.nodes === 1 ? launchCommand(job) : launchCommand(job, meeting)
  return ['sh', '-c', `exec ${words.map((word) => shellWord(word, { fills: true })).join(' ')}`]
}

function podOf(job: Job, place: ManifestPlace, containerName: string, meeting: Rendezvous) {
  return {
    containers: [
      {
        name: containerName,
        image: place.image,
        command: lineOf(job, meeting),
        env: Object.entries(trainerEnvironment(job)).map(([key, value]) => ({ name: key, value })),
        ...(job.wantsGpus ? { resources: { limits: { 'nvidia.com/gpu': job.processes } } } : {}),
        volumeMounts: [{ name: 'runs', mountPath: place.mount }],
      },
    ],
    volumes: [{ name: 'runs', persistentVolumeClaim: { claimName: place.storage } }],
  }
}

function pytorchJob(job: Job, place: ManifestPlace) {
  // The operator fills these in; RANK counts pods there.
  const spec = podOf(job, place, 'pytorch', { host: '$MASTER_ADDR', port: '$MASTER_PORT', nodeRank: '$RANK' })
  const replicas = (count: number) => ({ replicas: count, restartPolicy: 'Never', template: { spec } })
  return {
    apiVersion: 'kubeflow.org/v1',
    kind: 'PyTorchJob',
    metadata: { name: labelOf(job) },
    spec: {
      nprocPerNode: String(job.processes),
      runPolicy: { cleanPodPolicy: 'Running', backoffLimit: 0 },
      pytorchReplicaSpecs: { Master: replicas(1), ...(job.nodes > 1 ? { Worker: replicas(job.nodes - 1) } : {}) },
    },
  }
}

function jobSet(job: Job, place: ManifestPlace) {
  const set = labelOf(job)
  const meeting = { host: `${set}-node-0-0.${set}`, port, nodeRank: '$JOB_COMPLETION_INDEX' }
  const spec = { restartPolicy: 'Never', ...podOf(job, place, 'trainer', meeting) }
  const indexed = { parallelism: job.nodes, completions: job.nodes, completionMode: 'Indexed', backoffLimit: 0, template: { spec } }
  return {
    apiVersion: 'jobset.x-k8s.io/v1alpha2',
    kind: 'JobSet',
    metadata: { name: set },
    spec: { failurePolicy: { maxRestarts: 0 }, replicatedJobs: [{ name: 'node', replicas: 1, template: { spec: indexed } }] },
  }
}

function skyTask(job: Job, place: ManifestPlace) {
  const [, , line] = lineOf(job, { host: '$HEAD', port, nodeRank: '$SKYPILOT_NODE_RANK' })
  return {
    name: labelOf(job),
    num_nodes: job.nodes,
    resources: { image_id: `docker:${place.image}`, ...(job.wantsGpus ? { accelerators: `${place.accelerator}:${job.processes}` } : {}) },
    file_mounts: { [place.mount]: { source: place.storage, mode: 'MOUNT' } },
    envs: trainerEnvironment(job),
    run: `HEAD=$(echo "$SKYPILOT_NODE_IPS" | head -n 1)\n${line}\n`,
  }
}
