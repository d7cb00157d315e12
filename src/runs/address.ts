import { isAbsolute, normalize } from 'node:path'
import { UserError } from '../domain/errors.ts'

/** What a person may name a stage by. */
export type Address =
  | { readonly kind: 'recipe'; readonly file: string; readonly stage: string | undefined }
  | { readonly kind: 'script'; readonly file: string }
  | { readonly kind: 'upstream script'; readonly version: string; readonly path: string }
  | { readonly kind: 'defaults'; readonly version: string | undefined }
  | { readonly kind: 'catalogue'; readonly version: string; readonly name: string }
  | { readonly kind: 'run'; readonly run: string; readonly checkpoint: number | 'best' | undefined }

/** The forms that name a launch script of upstream. */
export type ScriptAddress = Extract<Address, { kind: 'script' | 'upstream script' }>

const addressForms =
  'FILE.yaml[#STAGE], v1.3/STAGE, a run (id, prefix, latest), RUN@STEP, FILE.sh, v1.3.1:PATH, COMMIT:PATH or defaults[:v1.3.1]'

/** The kind of an address by its form alone. Raises UserError ADDRESS_INVALID where it has none of the forms. */
export function parseAddress(text: string): Address {
  return defaults(text) ?? recipe(text) ?? upstreamScript(text) ?? script(text) ?? catalogued(text) ?? run(text) ?? refused(text)
}

function defaults(text: string): Address | undefined {
  const [, version] = /^defaults(?::(v\d+(?:\.\d+){1,2}))?$/.exec(text) ?? []
  return /^defaults(:|$)/.test(text) && (text === 'defaults' || version !== undefined) ? { kind: 'defaults', version } : undefined
}

function recipe(text: string): Address | undefined {
  const [, file, stage] = /^(.+\.ya?ml)(?:#([^#/]+))?$/i.exec(text) ?? []
  return file === undefined ? undefined : { kind: 'recipe', file, stage }
}

function upstreamScript(text: string): Address | undefined {
  const [, version, path] = /^(v\d+(?:\.\d+){1,2}|[0-9a-f]{7,40}):(.+)$/.exec(text) ?? []
  if (version === undefined || path === undefined) return undefined
  if (isAbsolute(path) || normalize(path).startsWith('..') || path.includes('\0')) {
    const message = `${text}: expected a path inside the upstream checkout, got ${path}`
    throw new UserError('ADDRESS_INVALID', message, { hint: 'for example v1.3.1:scripts/text_condition/gpu/train_t2v.sh' })
  }
  return { kind: 'upstream script', version, path: normalize(path) }
}

function script(text: string): Address | undefined {
  return /\.sh$/i.test(text) ? { kind: 'script', file: text } : undefined
}

function catalogued(text: string): Address | undefined {
  const [, version, name] = /^(v\d+(?:\.\d+){0,2})\/([a-z0-9][\w.-]*)$/i.exec(text) ?? []
  return version === undefined || name === undefined ? undefined : { kind: 'catalogue', version, name }
}

/** Ids become parts of paths, so they hold nothing a path gives a meaning to. */
function run(text: string): Address | undefined {
  const [, id, checkpoint] = /^([a-z0-9][\w.-]*)(?:@(\d{1,15}|best))?$/i.exec(text) ?? []
  if (id === undefined || id.includes('..')) return undefined
  const step = checkpoint === undefined || checkpoint === 'best' ? checkpoint : Number(checkpoint)
  return { kind: 'run', run: id, checkpoint: step as number | 'best' | undefined }
}

function refused(text: string): never {
  throw new UserError('ADDRESS_INVALID', `${text}: expected the address of a stage, got none of its forms`, {
    hint: `write ${addressForms}`,
  })
}
