import { basename, join } from 'node:path'
import { execa } from 'execa'
import type { RunsWorld } from './runs/world.ts'
import { packageRoot } from './runs-world.ts'
import { webTokens } from './store/web-tokens.ts'
import { pageFiles } from './web/page-files.ts'
import { reportOf } from './web/report.ts'
import { type Served, serveWeb } from './web/server.ts'

/** Serves the page over a folder of runs: built files from a release, sources from a checkout. */
export function serveRuns(world: RunsWorld, { port, newTokens }: { port: number; newTokens: boolean }): Promise<Served> {
  return serveWeb({
    world,
    port,
    tokens: webTokens(world.runsFolder, world.random, { renew: newTokens }),
    page: pageFiles(pagePlace()),
    program: async (words) => {
      const { stdout } = await execa(process.execPath, [join(packageRoot, 'bin', 'stagewright.mjs'), ...words], { reject: false })
      return stdout
    },
  })
}

/** A run as one HTML file. */
export function reportRun(run: string, world: RunsWorld): Promise<string> {
  return reportOf(run, world, pageFiles(pagePlace()))
}

function pagePlace(): { built: string } | { sources: string } {
  const here = import.meta.dirname
  return basename(here) === 'dist' ? { built: join(here, 'page') } : { sources: join(here, 'web', 'page') }
}
