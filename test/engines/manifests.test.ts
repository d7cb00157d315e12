import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import type { Job } from '../../src/engines/engine.ts'
import { manifestKinds, manifestOf } from '../../src/engines/manifests.ts'

const job: Job = {
  runFolder: '/runs/20261125-101112-T2V_x.1-ab12',
  attempt: 2,
  engine: 'local',
  token: '20261125-101112-T2V_x.1-ab12:2:cd34',
  exitFile: '/runs/x/exit-2.json',
  choice: { formatVersion: 1, kind: 'local' },
  processes: 8,
  nodes: 2,
  wantsGpus: true,
  threads: 4,
  python: 'python3',
  pythonPath: '/stagewright/python',
  log: '/runs/x/log',
  script: '/runs/x/script',
}
const place = { image: 'registry.example/trainer:1', storage: 'runs', mount: '/runs', accelerator: 'H100' }
const meets = (rank: string, host: string, port: string) =>
  `exec python3 -m torch.distributed.run --nnodes=2 --node-rank=${rank} --master-addr=${host} --master-port=${port} --nproc-per-node=8 --max-restarts=0 -m osplan train ${job.runFolder} --attempt=2`

describe('a manifest', () => {
  test('says of itself that nothing here has run it', () => {
    for (const kind of manifestKinds) expect(manifestOf(kind, job, place)).toMatch(/^# Rendered .* not run here\.\n/)
  })

  test('for Kubeflow has a master and workers that meet at it, each with its GPUs and the runs', () => {
    const manifest = parse(manifestOf('kubernetes', job, place))
    const { Master, Worker } = manifest.spec.pytorchReplicaSpecs
    expect([Master.replicas, Worker.replicas]).toEqual([1, 1])
    const [container] = Worker.template.spec.containers
    expect(container.command).toEqual(['sh', '-c', meets('$RANK', '$MASTER_ADDR', '$MASTER_PORT')])
    expect(container.resources.limits).toEqual({ 'nvidia.com/gpu': 8 })
    expect(container.env).toContainEqual({ name: 'OMP_NUM_THREADS', value: '4' })
    expect(manifest.metadata.name).toBe('sw-20261125-101112-t2v-x-1-ab12-2')
    expect(parse(manifestOf('kubernetes', { ...job, nodes: 1, wantsGpus: false }, place)).spec.pytorchReplicaSpecs).not.toHaveProperty(
      'Worker',
    )
  })

  test('for JobSet is one indexed job whose first pod the others find by its name', () => {
    const manifest = parse(manifestOf('jobset', job, place))
    const { spec } = manifest.spec.replicatedJobs[0].template
    expect(spec).toMatchObject({ parallelism: 2, completions: 2, completionMode: 'Indexed' })
    const set = manifest.metadata.name
    expect(spec.template.spec.containers[0].command[2]).toBe(meets('$JOB_COMPLETION_INDEX', `${set}-node-0-0.${set}`, '29500'))
  })

  test('for SkyPilot asks for the nodes and mounts the runs', () => {
    expect(parse(manifestOf('skypilot', job, { ...place, storage: 's3://bucket/runs' }))).toMatchObject({
      num_nodes: 2,
      resources: { accelerators: 'H100:8', image_id: 'docker:registry.example/trainer:1' },
      file_mounts: { '/runs': { source: 's3://bucket/runs', mode: 'MOUNT' } },
      run: expect.stringContaining(meets('$SKYPILOT_NODE_RANK', '$HEAD', '29500')),
    })
  })

  test('with a value its schema does not take is refused', () => {
    expect(() => manifestOf('kubernetes', job, { ...place, storage: 'Not A Name' })).toThrow()
    expect(() => manifestOf('skypilot', job, { ...place, mount: 'runs' })).toThrow()
  })
})
