import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import type { Stage } from '../domain/stage/schema.ts'

const shippedEncoder = 'bytes'

/** The stage with paths seen from the caller's folder made absolute: the trainer works in the run's. A text encoder may be a hub's name. */
export function withAbsolutePaths(stage: Stage, cwd: string): Stage {
  const folder = (name: string) => (name !== shippedEncoder && existsSync(resolve(cwd, name)) ? resolve(cwd, name) : name)
  const { text, objective, samples } = stage
  return {
    ...stage,
    text: { ...text, encoder: folder(text.encoder), secondEncoder: text.secondEncoder === null ? null : folder(text.secondEncoder) },
    objective: { ...objective, lpipsWeights: objective.lpipsWeights === null ? null : resolve(cwd, objective.lpipsWeights) },
    samples: { ...samples, from: samples.from.map((files) => absoluteFiles(files, cwd)) },
  }
}

/** `FIRST,LAST` is two paths. */
export function absoluteFiles(files: string, cwd: string): string {
  return files
    .split(',')
    .map((file) => resolve(cwd, file))
    .join(',')
}
