import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { configJsonSchema, presetJsonSchema, sweepJsonSchema } from '../src/config/json-schema.ts'
import { pythonStage } from './python-stage.ts'
import { settingsPage } from './settings-page.ts'

/** Every generated file of the repository by its path. A test regenerates them and compares. */
export function generatedFiles(): Record<string, string> {
  return {
    'python/osplan/domain/stage.py': pythonStage(),
    'configs/recipe.schema.json': `${JSON.stringify(configJsonSchema(), null, 2)}\n`,
    'configs/preset.schema.json': `${JSON.stringify(presetJsonSchema(), null, 2)}\n`,
    'configs/sweep.schema.json': `${JSON.stringify(sweepJsonSchema(), null, 2)}\n`,
    'docs/settings.md': settingsPage(),
  }
}

const root = join(import.meta.dirname, '..')
if (process.argv[1] === import.meta.filename) {
  for (const [path, text] of Object.entries(generatedFiles())) {
    mkdirSync(dirname(join(root, path)), { recursive: true })
    writeFileSync(join(root, path), text)
    console.log(path)
  }
}
