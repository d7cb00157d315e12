import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { UserError } from '../domain/errors.ts'
import type { RunIdentity } from '../domain/protocol.ts'
import type { Stage } from '../domain/stage/schema.ts'
import { findCheckpoint, type StoredCheckpoint } from '../store/checkpoints.ts'
import { findRun, type Run } from '../store/runs.ts'
import { type Address, parseAddress } from './address.ts'

type Use = Stage['init']['use']

/** A name that is a file of weights, there or not, and never a run. */
const weightsFile = /\.(?:safetensors|ckpt|pt|pth|bin)$/

/** Weights found for an address: a folder or file, and the checkpoint they come from where they come from a run. */
export interface FoundWeights {
  readonly path: string
  readonly parent: RunIdentity['parent']
}

/** What a hand-off keeps, makes anew and begins again, in words for a person. */
export interface HandOff {
  readonly verb: 'continue' | 'branch' | 'advance' | 'train'
  readonly from: string
  readonly carried: readonly string[]
  readonly rebuilt: readonly string[]
  readonly reset: readonly string[]
}

/** Weights of one checkpoint, the ones that `use` names. Raises UserError WEIGHTS_MISSING where there is no moving average. */
export function weightsOf(run: Run, checkpoint: StoredCheckpoint, use: Use): FoundWeights {
  const wantsEma = use !== 'raw'
  if (use === 'ema' && !checkpoint.hasEma) {
    throw new UserError('WEIGHTS_MISSING', `${run.id}@${checkpoint.step}: expected a moving average, got raw weights only`, {
      hint: 'set init.use to raw',
    })
  }
  const folder = wantsEma && checkpoint.hasEma ? 'model_ema' : 'model'
  const file = `${folder}/diffusion_pytorch_model.safetensors`
  const sha256 = checkpoint.files[file]?.sha256
  if (sha256 === undefined)
    throw new UserError('WEIGHTS_MISSING', `${checkpoint.folder}: expected ${file}, got none`, { hint: 'use another checkpoint' })
  return { path: join(checkpoint.folder, folder), parent: { run: run.id, step: checkpoint.step, use, sha256 } }
}

/**
 * The files an address of weights stands for: a run or RUN@STEP, or a folder or file. `stage:NAME` is looked up in `earlier`, the
 * runs of the recipe's earlier stages. Raises UserErrors WEIGHTS_MISSING, RUN_UNKNOWN and CHECKPOINT_MISSING.
 */
export function findWeights(
  address: string,
  use: Use,
  where: { cwd: string; runsFolder: string; earlier: ReadonlyMap<string, Run> },
): FoundWeights {
  const stageName = /^stage:(.+)$/.exec(address)?.[1]
  if (stageName !== undefined) {
    const run = where.earlier.get(stageName)
    if (!run) {
      throw new UserError('WEIGHTS_MISSING', `${address}: expected a finished run of stage ${stageName} as it is now, got none`, {
        hint: `train the whole recipe, or write a run in place of ${address}`,
      })
    }
    return weightsOf(run, findCheckpoint(run, use === 'best' ? 'best' : undefined), use)
  }
  const path = resolve(where.cwd, address)
  if (existsSync(path)) return { path, parent: null }
  const parsed = weightsFile.test(address) ? undefined : runAddress(address)
  if (!parsed) {
    throw new UserError('WEIGHTS_MISSING', `${address}: expected weights (a folder, a file or a run), got nothing at ${path}`, {
      hint: 'check the path, or write RUN or RUN@STEP',
    })
  }
  const run = findRun(where.runsFolder, parsed.run)
  return weightsOf(run, findCheckpoint(run, parsed.checkpoint ?? (use === 'best' ? 'best' : undefined)), use)
}

function runAddress(text: string): Extract<Address, { kind: 'run' }> | undefined {
  try {
    const address = parseAddress(text)
    return address.kind === 'run' ? address : undefined
  } catch (cause) {
    if (cause instanceof UserError) return undefined
    throw cause
  }
}

/** What each verb does with a checkpoint's parts. */
export function describeHandOff(verb: HandOff['verb'], from: string, stage: Stage): HandOff {
  const ema = stage.ema.enabled ? ['moving average'] : []
  switch (verb) {
    case 'continue':
      return {
        verb,
        from,
        carried: ['step', 'weights', ...ema, 'optimiser state', 'position in the data', 'random generators', 'live changes'],
        rebuilt: ['learning-rate curve (a function of the step)'],
        reset: [],
      }
    case 'branch':
      return {
        verb,
        from,
        carried: ['weights', ...ema, 'optimiser state'],
        rebuilt: ['learning-rate curve, from step 1'],
        reset: ['step', 'position in the data', 'live changes'],
      }
    case 'advance':
      return {
        verb,
        from,
        carried: [`weights (${stage.init.use})`],
        rebuilt: ['learning-rate curve, from step 1'],
        reset: ['step', 'optimiser state', ...ema, 'position in the data', 'random generators', 'live changes'],
      }
    case 'train':
      return { verb, from, carried: stage.init.weights ? [`weights (${stage.init.use})`] : [], rebuilt: [], reset: ['everything else'] }
    default:
      return verb satisfies never
  }
}
