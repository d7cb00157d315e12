import { appendFileSync, cpSync, existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, vi } from 'vitest'
import { filesOf } from '../../src/store/runs.ts'
import { reportOf } from '../../src/web/report.ts'
import { fakeWorld, folderTest as test } from '../runs/fake-world.ts'
import { stepLine } from '../store/made-journal.ts'
import { chartOf, executablePath, goTo, isWiderThanScreen, launchedBrowser, openPage, picture, violations } from './browser.ts'
import { madeRun, realPage, served } from './web-world.ts'

const sweepId = '20261125-121351-rates-3d9c'
vi.setConfig({ testTimeout: 120_000, hookTimeout: 60_000 })
let browser: Browser

/** What Optuna's PED-ANOVA said of the recorded sweep. */
const recorded = { learningRate: 1, trainable: 0, 'ema.decay': 0 }
const saved = { path: 'checkpoints/x', bytes: 1, sha256: 'x', seconds: 1 }
/** What a trainer says beside its steps: one event of each kind that is marked on curves. */
const happenings = [
  { event: 'phase', step: 200, index: 1, trainable: ['all'], parameters: 5 },
  {
    event: 'command',
    id: 'c',
    step: 400,
    name: 'set',
    path: 'learningRate',
    effective: 1e-6,
    status: 'applied',
    by: 'ada',
    reason: 'too noisy',
  },
  { event: 'checkpoint', step: 600, ...saved },
  { event: 'checkpoint', step: 602, ...saved },
  { event: 'incident', step: 800, kind: 'spike', message: 'loss 9 against 1.2', action: 'noted', severity: 'alert' },
]
const linesOf = (events: readonly object[]) =>
  events.map((event, place) => `${JSON.stringify({ seq: 50_000 + place, ts: 1250, attempt: 1, ...event })}\n`).join('')

describe.skipIf(!existsSync(executablePath))('views of the page in Chromium', () => {
  beforeAll(async () => {
    browser = await launchedBrowser()
  })
  afterAll(() => browser?.close())

  test('what happened stands on the curves, told by pointing, by keys and in words', async ({ folder }) => {
    const world = fakeWorld(folder)
    const run = madeRun(world, { steps: 1000, backAt: 900, backTo: 850, reason: 'completed', more: () => linesOf(happenings) })
    const server = await served(world, realPage)
    const { page, wrong } = await openPage(browser, `${server.controlUrl}`)
    await goTo(page, `run/${run.id}`)
    const loss = chartOf(page, 'Training loss')
    const signs = loss.getByRole('toolbar', { name: 'What happened, on Training loss' }).getByRole('button')
    await signs.first().waitFor()
    expect(await signs.evaluateAll((found) => found.map((sign) => sign.getAttribute('aria-label')))).toEqual([
      expect.stringMatching(/^step 200, phase: /),
      'step 400, live change: learningRate = 0.000001 applied from step 400 by ada: too noisy',
      'steps 600 to 602: 2 × checkpoint',
      expect.stringMatching(/^step 800, incident: spike/),
      expect.stringMatching(/^step 900, roll-back: non-finite/),
    ])
    // A sign stands above its place on the curve.
    const [sign, over] = [await signs.nth(1).boundingBox(), await loss.locator('.u-over').boundingBox()]
    expect(((sign?.x ?? 0) + (sign?.width ?? 0) / 2 - (over?.x ?? 0)) / (over?.width ?? 1)).toBeCloseTo(399 / 999, 2)
    await signs.nth(2).click()
    await loss.getByRole('status').getByText('checkpoint of step 602').waitFor()
    expect(await violations(page)).toEqual([])
    await page.keyboard.press('ArrowLeft')
    await page.keyboard.press('Enter')
    await loss.getByRole('status').getByText('too noisy').waitFor()
    await page.keyboard.press('Escape')
    await loss.getByRole('status').waitFor({ state: 'detached' })
    await page.keyboard.press('End')
    await page.keyboard.press('Enter')
    await page.keyboard.press('Tab')
    expect(await focusedText(page)).toBe('Look closer')
    await page.keyboard.press('Enter')
    await loss.getByText('21 of 1,000 points').waitFor()
    await page.mouse.move((over?.x ?? 0) + 200, (over?.y ?? 0) + 60)
    await expect.poll(() => loss.locator('.readout').textContent()).toMatch(/^\d+: .*every point [\d.]+ · smoothed/)
    expect(wrong).toEqual([])
    await server.close()
  })

  test('every part of a run’s page is reached by the tab key alone, in the order it is read, with a visible focus', async ({ folder }) => {
    const world = fakeWorld(folder)
    const run = madeRun(world, { steps: 100, reason: 'completed', more: () => linesOf([{ event: 'checkpoint', step: 50, ...saved }]) })
    const server = await served(world, realPage)
    const { page } = await openPage(browser, server.controlUrl)
    await goTo(page, `run/${run.id}`)
    await chartOf(page, 'Memory').getByRole('toolbar').waitFor()
    const reached: string[] = []
    for (let presses = 0; presses < 80; presses += 1) {
      await page.keyboard.press('Tab')
      const [name, isSeen] = await page.evaluate<[string, boolean]>(
        '(() => { const found = document.activeElement; return [found.getAttribute("aria-label") ?? found.closest("label")?.textContent ?? found.textContent, getComputedStyle(found).outlineStyle !== "none"] })()',
      )
      if (await page.evaluate('document.activeElement === document.body')) break
      expect([name, isSeen]).toEqual([name, true])
      reached.push(name.trim())
    }
    const inOrder = ['Stagewright', 'curves', 'samples', 'stage', 'weights', 'lineage', 'control', 'smoothing', 'log scale', 'Zoom in']
    expect(reached.filter((name) => inOrder.includes(name))).toEqual(inOrder)
    expect(reached.filter((name) => name === 'step 50, checkpoint: checkpoint of step 50')).toHaveLength(5)
    await server.close()
  })

  test('a connection that died while the computer slept is made again, and the page catches up', async ({ folder }) => {
    const world = fakeWorld(folder)
    const run = madeRun(world, { steps: 100 })
    const server = await served(world, realPage)
    const { page } = await openPage(browser, server.readUrl)
    await page.clock.install()
    let asked = 0
    // The first connection is one from which nothing ever comes.
    await page.route('**/events', (route) => (asked++ === 0 ? undefined : route.continue()))
    await goTo(page, `run/${run.id}`)
    const step = page.locator('.facts dd').first()
    await page.clock.runFor(1000)
    await step.getByText('100 of 100').waitFor()
    appendFileSync(filesOf(run.folder).trainer, stepLine(101, { seq: 90_000 }))
    await page.clock.fastForward('10:00')
    await page.clock.resume()
    await step.getByText('101 of 100').waitFor()
    expect(asked).toBeGreaterThan(1)
    await server.close()
  })

  test('a sweep shows its trials, how settings go with loss, what matters, and why trials were given up', async ({ folder }) => {
    const world = fakeWorld(folder)
    cpSync(join(import.meta.dirname, '../fixtures/web/sweep'), join(world.runsFolder, 'sweeps', sweepId), { recursive: true })
    const server = await served(world, realPage)
    for (const options of [{}, { width: 375, isDark: true }]) {
      const { page, wrong } = await openPage(browser, server.readUrl, options)
      // Python computes it, which this world has none of: its answer is a recorded one.
      await page.route('**/api/sweeps/*?importance=yes', async (route) => {
        const answer = await route.fetch({ url: route.request().url().replace('?importance=yes', '') })
        await route.fulfill({ response: answer, json: { ...(await answer.json()), importance: recorded } })
      })
      await goTo(page, `sweep/${sweepId}`)
      await page.getByText('14 trials, 6 done, 8 pruned').waitFor()
      const trials = page.getByRole('region', { name: 'Trials of the sweep' }).getByRole('row')
      expect(await trials.nth(1).textContent()).toMatch(/^3done0\.008503.*0\.3024 ± 0\.06757/)
      expect(await trials.nth(7).textContent()).toMatch(/pruned.*asha: 0\.330813 at step 30, rank 5 of 9; the best 1\/2 go on$/)
      const lines = page.getByRole('img', { name: 'Settings and loss of 14 trials' })
      expect(await lines.locator('polyline').count()).toBe(14)
      expect(await lines.locator('polyline.pruned').count()).toBe(8)
      expect(await lines.locator('.tick').allTextContents()).toEqual(expect.arrayContaining(['1.08e-5', '0.02473', '["all"]', '0.3024']))
      await page.getByRole('button', { name: 'Compute the importance of each setting' }).click()
      await page.getByText('learningRate 100 %').waitFor()
      expect(await violations(page)).toEqual([])
      expect(await isWiderThanScreen(page)).toBe(false)
      if (!('width' in options)) await picture(page, 'web-sweep.png')
      expect(wrong).toEqual([])
      await page.close()
    }
    await server.close()
  })

  test('reports of runs that never trained, failed, or had incidents say so, from the file alone', async ({ folder }) => {
    const world = fakeWorld(folder)
    const runs = {
      'No step has been logged yet.': madeRun(world, { steps: 0, stage: { steps: 40 }, reason: 'failed', day: 1 }),
      failed: madeRun(world, { steps: 40, reason: 'failed', day: 2 }),
      'loss 9 against 1.2': madeRun(world, { steps: 1000, reason: 'completed', day: 3, more: () => linesOf(happenings) }),
    }
    for (const [text, { id }] of Object.entries(runs)) {
      const file = join(folder, `${id}.html`)
      const html = await reportOf(id, world, realPage)
      expect(html.length).toBeLessThan(3_000_000)
      expect(html).not.toMatch(/(src|href)="(https?:)?\/\//)
      writeFileSync(file, html)
      const { page, wrong } = await openPage(browser, `file://${file}`)
      await page.getByText(text).first().waitFor()
      await page.getByRole('link', { name: 'lineage' }).click()
      await page.getByText(/completed –|failed –/).waitFor()
      expect(wrong).toEqual([])
      await page.close()
    }
  })

  test('what a stage changed in its weights is told module by module', async ({ folder }) => {
    const world = fakeWorld(folder)
    const run = madeRun(world, { steps: 10, reason: 'completed' })
    const server = await served(world, realPage)
    const { page } = await openPage(browser, server.readUrl, { isDark: true })
    const distance = (relativeL2: unknown) => ({ relativeL2, maxAbs: 0.04, changed: 4 })
    const modules = [
      { module: '', tensors: 2, parameters: 2_230_000, changedTensors: 2, changedParameters: 9360, distance: distance(0.08) },
      { module: 'blocks.3', tensors: 1, parameters: 9360, changedTensors: 1, changedParameters: 9360, distance: distance({ $f: 'inf' }) },
    ]
    await page.route('**/weights', (route) => route.fulfill({ json: { from: 'a@300', to: 'b@200', changed: 2, same: 139, modules } }))
    await goTo(page, `run/${run.id}/weights`)
    await page.getByText('a@300 → b@200: 2 tensors changed, 139 are the same.').waitFor()
    await page.getByRole('row', { name: /^all 2\.23 M 9,360/ }).waitFor()
    await page.getByRole('row', { name: /^blocks\.3 .*Infinity/ }).waitFor()
    expect(await violations(page)).toEqual([])
    await server.close()
  })
})

function focusedText(page: Page): Promise<string> {
  return page.evaluate('document.activeElement.textContent')
}
