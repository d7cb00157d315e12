import { availableParallelism, totalmem } from 'node:os'
import { execa } from 'execa'
import type { Resources } from '../domain/queue/queue.ts'

const mebibyte = 2 ** 20

/** What this machine has: GPUs as the driver names them, those of CUDA_VISIBLE_DEVICES where it is set; cores and memory. */
export async function machineResources(env: Readonly<Record<string, string | undefined>>): Promise<Resources> {
  const query = ['--query-gpu=index,uuid,memory.total', '--format=csv,noheader,nounits']
  const { stdout, exitCode } = await execa('nvidia-smi', query, { reject: false, timeout: 10_000, stdin: 'ignore' })
  const all = exitCode === 0 ? gpusIn(stdout ?? '') : []
  const visible = env.CUDA_VISIBLE_DEVICES?.split(',').map((name) => name.trim())
  const gpus = visible ? all.filter(({ name, uuid }) => visible.includes(name) || visible.includes(uuid)) : all
  return { gpus: gpus.map(({ name, memoryBytes }) => ({ name, memoryBytes })), cores: availableParallelism(), memoryBytes: totalmem() }
}

/** The lines of nvidia-smi: index, identity, memory in MiB. */
export function gpusIn(text: string): { name: string; uuid: string; memoryBytes: number }[] {
  return text.split('\n').flatMap((line) => {
    const [, name, uuid, memory] = /^\s*(\d+)\s*,\s*(\S+)\s*,\s*(\d+)\s*$/.exec(line) ?? []
    return name === undefined || uuid === undefined ? [] : [{ name, uuid, memoryBytes: Number(memory) * mebibyte }]
  })
}
