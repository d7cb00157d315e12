import { createHash } from 'node:crypto'
import { createReadStream, existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import { UserError } from '../domain/errors.ts'
import { float, formatVersion } from '../domain/protocol.ts'
import type { Run } from './runs.ts'
import { filesOf } from './runs.ts'

const measured = z.looseObject({ loss: float })
const manifestSchema = z.looseObject({
  formatVersion: z.literal(formatVersion),
  step: z.int().nonnegative(),
  attempt: z.int().positive(),
  heldOut: z.looseObject({ raw: measured, ema: measured.nullable() }).nullable(),
  stageHash: z.string(),
  files: z.record(z.string(), z.strictObject({ bytes: z.int().nonnegative(), sha256: z.string() })),
})

/** A complete checkpoint: every file its manifest names is there in full length. */
export interface StoredCheckpoint {
  readonly step: number
  readonly folder: string
  readonly hasEma: boolean
  /** Whether low-rank adapters were trained: `adapter/` has them alone, `model/` merged into their base. */
  readonly hasAdapters: boolean
  /** Held-out loss of what would be handed on; undefined where it was not measured. */
  readonly heldOutLoss: number | undefined
  readonly files: Readonly<Record<string, { readonly bytes: number; readonly sha256: string }>>
}

/** Complete checkpoints of a run, by rising step. Incomplete ones are passed over. */
export function checkpointsOf(run: Run): StoredCheckpoint[] {
  const root = filesOf(run.folder).checkpoints
  if (!existsSync(root)) return []
  const names = readdirSync(root).filter((name) => /^step-\d+$/.test(name))
  return names.flatMap((name) => readCheckpoint(join(root, name)) ?? []).sort((a, b) => a.step - b.step)
}

function readCheckpoint(folder: string): StoredCheckpoint | undefined {
  let value: unknown
  try {
    value = JSON.parse(readFileSync(join(folder, 'manifest.json'), 'utf8'))
  } catch {
    return undefined
  }
  const parsed = manifestSchema.safeParse(value)
  if (!parsed.success) return undefined
  const { step, files, heldOut } = parsed.data
  const isComplete = Object.entries(files).every(([name, { bytes }]) => sizeOf(join(folder, name)) === bytes)
  if (!isComplete) return undefined
  const loss = (heldOut?.ema ?? heldOut?.raw)?.loss
  return {
    step,
    folder,
    files,
    hasEma: Object.keys(files).some((name) => name.startsWith('model_ema/')),
    hasAdapters: Object.keys(files).some((name) => name.startsWith('adapter/')),
    heldOutLoss: Number.isFinite(loss) ? loss : undefined,
  }
}

function sizeOf(path: string): number {
  try {
    return statSync(path).size
  } catch {
    return -1
  }
}

/** The checkpoint of a step, the newest (`undefined`) or the best one. Raises UserError CHECKPOINT_MISSING. */
export function findCheckpoint(run: Run, which: number | 'best' | undefined): StoredCheckpoint {
  const all = checkpointsOf(run)
  const found = which === undefined ? all.at(-1) : which === 'best' ? best(all) : all.find(({ step }) => step === which)
  if (found) return found
  const steps = all.map(({ step }) => step)
  const got = steps.length === 0 ? 'none' : `those of steps ${steps.join(', ')}`
  const wanted =
    which === undefined
      ? 'a complete checkpoint'
      : which === 'best'
        ? 'a checkpoint with a held-out loss'
        : `a complete checkpoint of step ${which}`
  throw new UserError('CHECKPOINT_MISSING', `${run.id}: expected ${wanted}, got ${got}`, {
    hint: steps.length === 0 ? 'start the stage again with `stagewright train`' : `write ${run.id}@${steps.at(-1)}`,
  })
}

/** Lowest held-out loss of what would be handed on, ties to the earlier step. */
function best(all: readonly StoredCheckpoint[]): StoredCheckpoint | undefined {
  const measuredOnes = all.filter(({ heldOutLoss }) => heldOutLoss !== undefined)
  return measuredOnes.sort((a, b) => (a.heldOutLoss ?? 0) - (b.heldOutLoss ?? 0) || a.step - b.step)[0]
}

/** Reads every file of a checkpoint against its hash. Raises UserError CHECKPOINT_DAMAGED. */
export async function verifyCheckpoint(checkpoint: StoredCheckpoint): Promise<void> {
  for (const [name, { sha256 }] of Object.entries(checkpoint.files)) {
    const got = await hashFile(join(checkpoint.folder, name))
    if (got !== sha256) {
      throw new UserError(
        'CHECKPOINT_DAMAGED',
        `${join(checkpoint.folder, name)}: expected sha256 ${sha256.slice(0, 12)}…, got ${got.slice(0, 12)}…`,
        {
          hint: 'use an earlier checkpoint',
        },
      )
    }
  }
}

/** The sha256 of a file, in hexadecimal. */
export async function hashFile(path: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 22 })) hash.update(chunk as Buffer)
  return hash.digest('hex')
}
