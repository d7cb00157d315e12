import { readFileSync } from 'node:fs'
import { importScript } from '../../src/upstream/import.ts'
import type { Corpus } from './script-corpus.ts'

/** Imports the scripts of a corpus file in this process and prints how many a second, reading left out, and how many launches. */
const { scripts, trees }: Corpus = JSON.parse(readFileSync(process.argv[2] ?? '', 'utf8'))
const began = process.hrtime.bigint()
let launches = 0
for (const { file, text, trainer, tree } of scripts) {
  const readFile = (path: string): string | undefined => trees[tree]?.[path]
  launches += importScript(text, trainer === undefined ? { file, readFile } : { file, trainer, readFile }).length
}
const seconds = Number(process.hrtime.bigint() - began) / 1e9
console.log(JSON.stringify({ scriptsPerSecond: scripts.length / seconds, launches }))
