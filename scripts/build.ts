import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { build } from 'esbuild'
import { pageBuild } from '../src/web/page-files.ts'

const root = join(import.meta.dirname, '..')

/**
 * One file per command: what a command does not need is not loaded. Packages that find files beside themselves stay outside. Beside them the
 * page that `stagewright web` serves.
 */
export async function bundleTo(folder: string): Promise<void> {
  rmSync(folder, { recursive: true, force: true })
  await build({
    entryPoints: [join(root, 'src/main.ts'), join(root, 'src/api.ts')],
    outdir: folder,
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'node',
    target: 'node20.19',
    alias: { 'string-width': join(root, 'scripts/string-width.ts') },
    external: ['esbuild', 'execa', 'pythonia', 'tsx'],
    banner: { js: "import { createRequire as __createRequire } from 'node:module'; const require = __createRequire(import.meta.url);" },
    logLevel: 'warning',
  })
  await build({ ...pageBuild(join(root, 'src/web/page')), outdir: join(folder, 'page') })
}

if (process.argv[1] === import.meta.filename) await bundleTo(join(root, 'dist'))
