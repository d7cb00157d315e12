import { existsSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { Findings, quoted, type WeightFinding } from './finding.ts'
import { type InspectedHeader, inspectHeader } from './header.ts'
import { locateWeights, type WeightChoice } from './layout.ts'
import { inspectShardIndex } from './shard-index.ts'

export interface VerifiedFile {
  readonly file: string
  readonly findings: readonly WeightFinding[]
}

/**
 * Everything wrong with the weights a path means, file by file; files without findings are listed too. Data bytes are not read.
 * Throws UserError WEIGHTS_UNREADABLE, WEIGHTS_NONE or WEIGHTS_AMBIGUOUS.
 */
export function verifyWeights(path: string, choice: WeightChoice = 'ema-or-raw'): VerifiedFile[] {
  const place = locateWeights(path, choice)
  if (place.kind === 'file') return [{ file: place.path, findings: inspectHeader(place.path).findings }]
  return verifySharded(place.path, place.folder)
}

function verifySharded(indexPath: string, folder: string): VerifiedFile[] {
  const { index, findings: ofIndex } = inspectShardIndex(indexPath)
  const findings = new Findings()
  const files = [...new Set(index.fileOf.values())].sort()
  const present = files.filter((file) => existsSync(join(folder, file)) && statSync(join(folder, file)).isFile())
  const shards = new Map(present.map((file) => [file, inspectHeader(join(folder, file))]))
  for (const file of files)
    if (!shards.has(file)) findings.add('error', 'index-shard-missing', 0, `the shard ${quoted(file)} is missing, or no file`)
  checkUnlistedShards(indexPath, folder, files, findings)
  checkEntries(index.fileOf, shards, findings)
  checkTotalSize(index.totalSize, files, shards, findings)
  const verified = [...shards].map(([file, shard]) => ({ file: join(folder, file), findings: shard.findings }))
  return [{ file: indexPath, findings: [...ofIndex, ...findings.list] }, ...verified]
}

/** Shards of the same family (`NAME-00001-of-00003.safetensors`) that the index never names. */
function checkUnlistedShards(indexPath: string, folder: string, files: readonly string[], findings: Findings): void {
  const family =
    indexPath
      .split(/[/\\]/)
      .at(-1)
      ?.replace(/\.safetensors\.index\.json$/, '') ?? ''
  for (const name of readdirSync(folder).sort()) {
    const isShard = name.startsWith(`${family}-`) && /-\d+-of-\d+\.safetensors$/.test(name)
    if (isShard && !files.includes(name))
      findings.add('error', 'index-shard-unlisted', 0, `the index never names the shard ${quoted(name)}`)
  }
}

function checkEntries(fileOf: ReadonlyMap<string, string>, shards: ReadonlyMap<string, InspectedHeader>, findings: Findings): void {
  for (const [name, file] of fileOf) {
    const header = shards.get(file)?.header
    if (header === undefined || header.tensors.has(name)) continue
    const other = [...shards].find(([, shard]) => shard.header?.tensors.has(name))?.[0]
    findings.add(
      'error',
      'index-tensor-missing',
      0,
      `${quoted(name)}: expected in ${quoted(file)}, ${other ? `lies in ${quoted(other)}` : 'lies in no shard'}`,
    )
  }
  for (const [file, { header }] of shards) {
    for (const name of header?.tensors.keys() ?? []) {
      const listed = fileOf.get(name)
      if (listed === undefined)
        findings.add('error', 'index-tensor-unlisted', 0, `${quoted(file)} holds ${quoted(name)}, which the index does not name`)
      else if (listed !== file && shards.get(listed)?.header?.tensors.has(name)) {
        findings.add('error', 'name-duplicate', 0, `${quoted(name)} lies in ${quoted(listed)} and in ${quoted(file)}`)
      }
    }
  }
}

function checkTotalSize(
  totalSize: number | undefined,
  files: readonly string[],
  shards: ReadonlyMap<string, InspectedHeader>,
  findings: Findings,
): void {
  const sizes = files.map((file) => shards.get(file)?.header?.dataBytes)
  if (totalSize === undefined || !sizes.every((size) => size !== undefined)) return
  const total = sizes.reduce((sum, size) => sum + size, 0)
  if (total !== totalSize)
    findings.add('error', 'index-total-size', 0, `metadata.total_size: expected ${total} bytes, as the shards have, got ${totalSize}`)
}
