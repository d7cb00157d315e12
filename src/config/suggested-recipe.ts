import { Document, isMap, isScalar, type Pair, type Scalar, type YAMLMap } from 'yaml'
import type { SuggestedSetting } from '../domain/suggestion.ts'
import { formatVersion } from './recipe-file.ts'

/** A stage to write: what it extends and starts from, and its settings with their reasons. */
export interface RecipeText {
  readonly name: string
  readonly extends: string
  readonly init: { readonly weights: string; readonly use: string }
  /** The autoencoder, where the parent's file names one that is not here. */
  readonly vae: string | undefined
  readonly settings: readonly SuggestedSetting[]
  /** Lines above everything else. */
  readonly head: readonly string[]
}

/** A recipe of one stage as YAML, each setting with its reason and source in a comment above it. */
export function recipeText({ name, extends: parent, init, vae, settings, head }: RecipeText): string {
  const document = new Document({
    formatVersion,
    name,
    stages: [{ name, extends: parent, init, ...(vae === undefined ? {} : { vae: { weights: vae } }) }],
  })
  document.commentBefore = head.map((line) => ` ${line}`).join('\n')
  const stage = document.getIn(['stages', 0])
  if (!isMap(stage)) throw new Error('a new document has no stage')
  for (const { path, value, reason, source } of settings) {
    const pair = pairAt(document, stage, path.split('.'))
    pair.value = document.createNode(value, { flow: true })
    pair.key.commentBefore = ` ${reason} [${source}]`
  }
  return document.toString({ lineWidth: 0 })
}

/** The pair of a path within a map, made with those above it where it is not there. */
function pairAt(document: Document, map: YAMLMap, [first = '', ...rest]: readonly string[]): Pair<Scalar, unknown> {
  const found = map.items.find(({ key }) => isScalar(key) && key.value === first)
  const pair = (found ?? document.createPair(first, rest.length > 0 ? {} : null)) as Pair<Scalar, unknown>
  if (!found) map.items.push(pair)
  if (rest.length === 0) return pair
  if (!isMap(pair.value)) throw new Error(`${first} holds no settings`)
  return pairAt(document, pair.value, rest)
}
