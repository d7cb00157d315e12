import { join } from 'node:path'
import { z } from 'zod'
import { UserError } from '../domain/errors.ts'
import { formatVersion } from '../domain/protocol.ts'
import { makeFolder, readIfThere, writeAtomically } from './files.ts'

const tokensSchema = z.strictObject({
  formatVersion: z.literal(formatVersion),
  control: z.string().regex(/^[0-9a-f]{32,}$/),
  read: z.string().regex(/^[0-9a-f]{32,}$/),
})

/**
 * The tokens of the page over a folder of runs, made where there are none; a server that is started again keeps them, so that open pages go
 * on. The file is the owner's alone. Raises UserError TOKENS_INVALID.
 */
export function webTokens(runsFolder: string, random: (digits: number) => string, options: { renew: boolean }) {
  const path = join(runsFolder, '.web-tokens.json')
  const known = options.renew ? undefined : readTokens(path)
  if (known) return known
  const made = { formatVersion, control: random(32), read: random(32) } as const
  makeFolder(runsFolder)
  writeAtomically(path, `${JSON.stringify(made)}\n`)
  return made
}

function readTokens(path: string) {
  const text = readIfThere(path)
  if (text === undefined) return undefined
  try {
    return tokensSchema.parse(JSON.parse(text))
  } catch (cause) {
    throw new UserError('TOKENS_INVALID', `${path}: expected two tokens, got something else`, {
      cause,
      hint: 'stagewright web --new-tokens writes new ones',
    })
  }
}
