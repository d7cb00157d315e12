import { createHash } from 'node:crypto'
import { readFileSync, statSync } from 'node:fs'
import { detailsOf, sampleFile } from '../runs/watch/details.ts'
import { lineageOf } from '../runs/watch/lineage.ts'
import type { RunWatch } from '../runs/watch/run-watch.ts'
import { axes, heatMapOf, seriesOf } from '../runs/watch/series.ts'
import { diffFor, settingsOf } from '../runs/watch/stage-view.ts'
import { WatchedRuns } from '../runs/watch/watched-runs.ts'
import type { RunsWorld } from '../runs/world.ts'
import { jsonText } from './answers.ts'
import type { PageFiles } from './page-files.ts'

/** Columns of pixels of the curves in a report: enough to zoom into a stretch of a screen's width. */
const pixels = 4000
const heatColumns = 200
const smoothing = 0.95
/** Videos are left out beyond this, the oldest first. */
const mostVideoBytes = 8 * 1024 * 1024

/**
 * One file that shows a run as the page does and asks nothing of any network: the page itself with the answers it would ask for. Paths of
 * this machine are left out, except where a message of the run names one.
 */
export async function reportOf(address: string, world: RunsWorld, page: PageFiles): Promise<string> {
  const runs = new WatchedRuns(world)
  const watch = await runs.watch(address)
  const { script, style } = await page()
  const code = script.replaceAll('</script', '<\\/script')
  const data = jsonText({ answers: await answersOf(watch, runs, world), samples: samplesOf(watch) }).replaceAll('<', '\\u003c')
  const policy = [
    "default-src 'none'",
    `script-src 'sha256-${createHash('sha256').update(code).digest('base64')}'`,
    "style-src 'unsafe-inline'",
    'img-src data:',
    'media-src data:',
    "base-uri 'none'",
    "form-action 'none'",
  ].join('; ')
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="content-security-policy" content="${policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escaped(watch.run.id)}</title>
<style>${style.replaceAll('</style', '<\\/style')}</style>
</head>
<body><div id="app"></div><script type="application/json" id="report">${data}</script><script type="module">${code}</script></body>
</html>
`
}

async function answersOf(watch: RunWatch, runs: WatchedRuns, world: RunsWorld): Promise<Record<string, unknown>> {
  const { id } = watch.run
  const at = `/api/runs/${id}`
  const answers: Record<string, unknown> = { '/api/session': { role: 'read', runsFolder: '', run: id } }
  for (const axis of axes) {
    const { identity: _, ...details } = detailsOf(watch, axis)
    const columns = details.columns.filter((name) => !/^(step|ts|attempt|samples|bin\.\d+)$/.test(name))
    answers[`${at}?axis=${axis}`] = details
    answers[`${at}/series?axis=${axis}`] = seriesOf(watch, { columns, axis, width: pixels, smoothing })
    answers[`${at}/heat?axis=${axis}`] = heatMapOf(watch, { axis, width: heatColumns })
  }
  answers[`${at}/stage`] = { settings: settingsOf(watch) }
  answers[`${at}/lineage`] = lineageOf(watch, await settledList(runs))
  const { parent } = watch.run.identity
  for (const other of ['defaults', ...(parent ? [`${parent.run}@${parent.step}`] : [])]) {
    const diff = await diffFor(other, id, runs, world).catch(() => undefined)
    if (diff) answers[`/api/diff?a=${encodeURIComponent(other)}&b=${encodeURIComponent(id)}`] = diff
  }
  return answers
}

async function settledList(runs: WatchedRuns) {
  for (;;) {
    const list = await runs.list()
    if (list.pending === 0) return list
  }
}

/** The newest videos as addresses that hold them whole. */
function samplesOf(watch: RunWatch): Record<string, string> {
  const videos: Record<string, string> = {}
  let bytes = 0
  for (let index = watch.state().samples.length - 1; index >= 0; index -= 1) {
    try {
      const path = sampleFile(watch, index)
      bytes += statSync(path).size
      if (bytes > mostVideoBytes) break
      videos[`/api/runs/${watch.run.id}/samples/${index}`] = `data:video/mp4;base64,${readFileSync(path).toString('base64')}`
    } catch {
      // A sample whose file is gone is shown as missing.
    }
  }
  return videos
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;')
}
