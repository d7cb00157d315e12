import type { Finding } from '../domain/stage/origin.ts'
import type { ImportedStage } from './imported-stage.ts'
import type { ReadText } from './launch-config.ts'
import { flattened } from './megatron.ts'

/*
 * Findings that need other files of upstream's tree beside the script: the data set's code, lists of data, the configuration for inference.
 */

interface Found {
  readonly rule: string
  readonly message: string
  readonly hint: string
  readonly paths: readonly string[]
}

/** What files beside the script contradict. Files that cannot be read say nothing, save where the release's own are known. */
export function treeFindings(stage: ImportedStage, read: ReadText): Finding[] {
  return [...fixedTokenizer(stage, read), ...unusedLists(stage, read), ...otherAtInference(stage, read)].map(
    ({ rule, message, hint, paths }) => ({
      rule,
      severity: 'warn',
      message,
      where: placeOf(stage, paths),
      paths: [...new Set([...paths, ...[...(stage.flagNames ?? [])].filter(([, flag]) => paths.includes(flag)).map(([path]) => path)])],
      hint,
    }),
  )
}

function placeOf(stage: ImportedStage, paths: readonly string[]): Finding['where'] {
  const { line, column } = paths.flatMap((name) => stage.given.get(name)?.word ?? [])[0] ?? { line: 1, column: 1 }
  return { file: stage.script, line, column }
}

const datasetCode = 'opensora/dataset/__init__.py'
const tokenizerOfFixedPath = /^[^#\n]*from_pretrained\(\s*(["'])(\/[^"'\n]+)\1/m

/** The text encoder follows its flag while the data set's tokenizer is read from a path in the code. */
function fixedTokenizer(stage: ImportedStage, read: ReadText): Found[] {
  const flags = ['text_encoder_name_1', 'text_encoder_name_2', 'text_encoder_name'].filter((flag) => stage.given.has(flag))
  if (flags.length === 0) return []
  const [, , path] = tokenizerOfFixedPath.exec(read(datasetCode) ?? '') ?? []
  return path === undefined
    ? []
    : [
        {
          rule: 'tokenizer-fixed',
          message: `--${flags[0]}: names the encoder, while ${datasetCode} always reads the tokenizer from ${path}`,
          hint: 'make both follow the flag',
          paths: [...flags, datasetCode],
        },
      ]
}

/** Numbered lists of data that lie beside the one the configuration names, and that nothing reads. */
function unusedLists(stage: ImportedStage, read: ReadText): Found[] {
  const named = stage.stage.data.source
  const [, base, digits] = /^(?:.*\/(?=examples\/))?(.*?)(\d+)\.txt$/.exec(named ?? '') ?? []
  if (stage.trainer.family !== 'megatron' || base === undefined || digits === undefined) return []
  const listAt = (number: number) => `${base}${String(number).padStart(digits.length, '0')}.txt`
  const others: string[] = []
  const most = 64
  for (let number = Number(digits) + 1; others.length < most && read(listAt(number)) !== undefined; number += 1) others.push(listAt(number))
  if (others.length === 0) return []
  const own = folderOfList(read(listAt(Number(digits))))
  const foreign = others.find((path) => folderOfList(read(path)) !== own)
  return [
    {
      rule: 'lists-unused',
      message: `data_path: only ${named} is read; ${others.length} lists of the same name lie beside it${foreign === undefined ? '' : `, and from ${foreign} on they name other data`}`,
      hint: 'remove what is left of another stage, or name the lists',
      paths: ['data.dataset_param.basic_parameters.data_path', 'data_path', 'mm-data', 'data.source', ...others],
    },
  ]
}

/** Where the entries of a list lie, without the part that numbers them. */
function folderOfList(text: string | undefined): string {
  const [first = ''] = (text ?? '').split('\n')
  return first.replace(/\d+/g, '#')
}

/** What upstream's configuration for inference of this release says, where the file itself is out of reach. */
const publishedInference: ReadonlyMap<string, boolean> = new Map([
  ['predictor.norm_elementwise_affine', true],
  ['diffusion.use_dynamic_shifting', false],
])
const ownToTraining = /from_pretrained$|dtype$|^frames$|use_tiling$|low_cpu_mem_usage$/

/** The model is sampled with settings it was not trained with. */
function otherAtInference(stage: ImportedStage, read: ReadText): Found[] {
  const file = stage.given.get('mm-model')?.text ?? ''
  const twin = file.replace(/([^/]*)model_opensoraplan([\w.]*)\.json$/, '$1inference_t2v_model$2.json')
  const text = twin === file ? undefined : read(twin)
  const sampled = text === undefined ? (stage.version.startsWith('v1.5') ? publishedInference : new Map()) : flattened(text)
  const different = [...sampled].filter(([name, value]) => {
    const trained = stage.stage.upstream[`model.${name}`]
    return trained !== undefined && !ownToTraining.test(name) && JSON.stringify(trained) !== JSON.stringify(value)
  })
  return stage.trainer.family !== 'megatron' || twin === file
    ? []
    : different.map(([name, value]) => ({
        rule: 'inference-disagrees',
        message: `model.${name}: ${JSON.stringify(stage.stage.upstream[`model.${name}`])} in training, ${JSON.stringify(value)} in ${twin}`,
        hint: 'sample with what was trained',
        paths: [`model.${name}`, name.replace(/^.*\./, ''), twin, 'mm-model'],
      }))
}
