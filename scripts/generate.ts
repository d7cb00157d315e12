import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pythonStage } from './python-stage.ts'

/** Every generated file of the repository by its path. A test regenerates them and compares. */
export function generatedFiles(): Record<string, string> {
  return {
    'python/osplan/domain/stage.py': pythonStage(),
  }
}

const root = join(import.meta.dirname, '..')
if (process.argv[1] === import.meta.filename) {
  for (const [path, text] of Object.entries(generatedFiles())) {
    writeFileSync(join(root, path), text)
    console.log(path)
  }
}
