import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, vi } from 'vitest'
import { readState } from '../../src/store/runs.ts'
import { reportOf } from '../../src/web/report.ts'
import { fakeWorld, folderTest, followed, launched } from '../runs/fake-world.ts'
import { chartOf, executablePath, goTo, isWiderThanScreen, launchedBrowser, openPage, picture, sampleVideo, violations } from './browser.ts'
import { madeRun, realPage, served, tokens, withSamples } from './web-world.ts'

/* The page in a real browser, over real run folders. */

vi.setConfig({ testTimeout: 240_000, hookTimeout: 60_000 })

const test = folderTest
let browser: Browser

describe.skipIf(!existsSync(executablePath))('the page in Chromium', () => {
  beforeAll(async () => {
    browser = await launchedBrowser()
  })
  afterAll(() => browser?.close())

  test('shows every view of finished runs, reachable, on a phone and in the dark', async ({ folder }) => {
    const world = fakeWorld(folder)
    const parent = madeRun(world, { steps: 1200, name: 'first', reason: 'completed', day: 1, stage: { learningRate: 5e-5 } })
    const run = madeRun(world, {
      steps: 2000,
      name: 'second',
      reason: 'completed',
      day: 2,
      startedAt: Date.UTC(2026, 0, 2) / 1000,
      backAt: 1500,
      backTo: 1300,
      parent: { run: parent.id, step: 1200, use: 'ema', sha256: 'x' },
      more: (made) => withSamples(made, sampleVideo, [500, 1000, 2000], ['a red square moves left', 'a blue circle moves up']),
    })
    const server = await served(world, realPage)
    const { page, wrong } = await openPage(browser, server.controlUrl)
    await page.getByRole('link', { name: 'second', exact: true }).waitFor()
    expect(page.url()).not.toContain(tokens.control)
    await page.getByRole('searchbox', { name: 'Search' }).fill('second')
    await page.getByText('1 of 2 runs').waitFor()
    await page.getByRole('searchbox', { name: 'Search' }).fill('')
    await goTo(page, '50%')
    await page.getByRole('button', { name: 'Progress' }).click()
    expect(await violations(page)).toEqual([])

    await page.getByRole('link', { name: 'second', exact: true }).click()
    await chartOf(page, 'Training loss').getByText('2,000 of 2,000 points').waitFor()
    expect(await chartOf(page, 'Training loss').getByRole('img').getAttribute('aria-label')).toMatch(
      /From .* at 1 to .* at 2,000; lowest .*, highest/,
    )
    await page.getByText('done again later').first().waitFor()
    await page.getByRole('button', { name: 'step 1,500', exact: true }).click()
    await chartOf(page, 'Training loss').getByText('21 of 2,000 points').waitFor()
    await page.getByRole('button', { name: 'whole run' }).click()
    for (const axis of ['samples', 'wall', 'relative', 'step']) {
      await page.getByLabel('over').selectOption(axis)
      await chartOf(page, 'Training loss').getByText('2,000 of 2,000 points').waitFor()
    }
    await picture(page, 'web-run.png')
    await page.getByLabel('log scale').check()
    expect(await violations(page)).toEqual([])

    await page.getByRole('link', { name: 'samples' }).click()
    await expect
      .poll(() => page.evaluate("[...document.querySelectorAll('video')].some(({ readyState }) => readyState >= 2)"), { timeout: 20_000 })
      .toBe(true)
    await page.getByLabel('place in all videos').fill('0.5')
    await expect
      .poll(() => page.evaluate("document.querySelector('video').currentTime / document.querySelector('video').duration"), {
        timeout: 20_000,
      })
      .toBeCloseTo(0.5, 1)
    expect(await page.locator('video').count()).toBe(6)
    expect(await violations(page)).toEqual([])

    await page.getByRole('link', { name: 'stage', exact: true }).click()
    await page.getByText(`${parent.id}@1200 → ${run.id}`).waitFor()
    await page.getByRole('button', { name: 'defaults' }).click()
    await page.getByText(/defaults → .*differ/).waitFor()
    await page.getByLabel('only what differs from the default').uncheck()
    await page.getByText(/^1\d\d of 1\d\d settings/).waitFor()
    expect(await violations(page)).toEqual([])
    await page.getByRole('link', { name: 'lineage' }).click()
    await page.getByRole('link', { name: 'first' }).waitFor()
    expect(await violations(page)).toEqual([])

    await goTo(page, '')
    for (const id of [parent.id, run.id]) await page.getByLabel(`Compare ${id}`).check()
    await page.getByRole('button', { name: 'Compare 2' }).click()
    await page.getByText(/settings differ/).waitFor()
    await page.getByRole('cell', { name: '5e-5' }).waitFor()
    await chartOf(page, 'Training loss').getByText('3,200 of 3,200 points').waitFor()
    await page.getByText('held-out').getByText('2,000 of 2,000 points').waitFor()
    expect(await violations(page)).toEqual([])

    const dark = await openPage(browser, server.readUrl, { width: 375, isDark: true })
    await dark.page.getByRole('link', { name: 'second', exact: true }).waitFor()
    for (const route of [
      '',
      `run/${run.id}`,
      ...['samples', 'stage', 'lineage'].map((tab) => `run/${run.id}/${tab}`),
      `compare/${parent.id},${run.id}`,
    ]) {
      await goTo(dark.page, route)
      await dark.page.locator('main table, main figure, main .tree').first().waitFor()
      expect([route, await isWiderThanScreen(dark.page)]).toEqual([route, false])
      expect([route, await violations(dark.page)]).toEqual([route, []])
    }
    await goTo(dark.page, `run/${run.id}`)
    expect(await dark.page.getByRole('link', { name: 'control' }).count()).toBe(0)
    await chartOf(dark.page, 'Training loss').getByText('2,000 of 2,000 points').waitFor()
    await picture(dark.page, 'web-phone.png')
    expect([...wrong, ...dark.wrong]).toEqual([])
    await Promise.all([page.close(), dark.page.close()])
    await server.close()
  })

  test('shows one spike among a million steps, and zooms to it', async ({ folder }) => {
    const world = fakeWorld(folder)
    const run = madeRun(world, { steps: 1_000_000, isPlain: true, spikes: { 777777: 50 }, reason: 'completed' })
    const server = await served(world, realPage)
    const { page, wrong } = await openPage(browser, server.readUrl)
    await goTo(page, `run/${run.id}`)
    const chart = chartOf(page, 'Training loss')
    await chart.getByText('1,000,000 of 1,000,000 points').waitFor({ timeout: 60_000 })
    expect(await chart.getByRole('img').getAttribute('aria-label')).toContain('highest 50 at 777,777')
    expect(await inkNear(page, 0.777777)).toBe(true)
    expect(await inkNear(page, 0.5)).toBe(false)
    const over = await chart.locator('.u-over').boundingBox()
    if (!over) throw new Error('the chart has no size')
    const at = (share: number) => over.x + over.width * share
    await page.mouse.move(at(0.77), over.y + 50)
    await page.mouse.down()
    await page.mouse.move(at(0.785), over.y + 60, { steps: 4 })
    await page.mouse.up()
    await chart.getByText(/^(?!1,000,000)[\d,]+ of 1,000,000 points/).waitFor()
    for (let zooms = 0; zooms < 12 && (await chart.getByText('lowest and highest of each pixel').count()) > 0; zooms += 1) {
      const note = await chart.locator('.note').textContent()
      await page.getByRole('button', { name: 'Zoom in' }).click()
      await expect.poll(() => chart.locator('.note').textContent()).not.toBe(note)
    }
    expect(await violations(page)).toEqual([])
    const began = performance.now()
    await page.reload()
    await chart.getByText('1,000,000 of 1,000,000 points').waitFor()
    expect(performance.now() - began).toBeLessThan(15_000)
    expect(wrong).toEqual([])
    await page.close()
    await server.close()
  })

  test('follows a run that trains, changes it, and goes on after the server was away', async ({ folder }) => {
    const world = fakeWorld(folder, { stepMs: 20 })
    const run = await launched(world, { steps: 100_000 })
    let server = await served(world, realPage)
    const { port } = server
    const { page, wrong } = await openPage(browser, server.controlUrl)
    await goTo(page, `run/${run.id}/control`)
    const step = async () => Number((await page.locator('.facts dd').first().textContent())?.split(' of ')[0]?.replaceAll(',', ''))
    const goesOn = async () => {
      const before = await step()
      await expect.poll(step, { timeout: 30_000 }).toBeGreaterThan(before)
    }
    await goesOn()
    await page.getByLabel('new value').fill('2e-6')
    await page.getByLabel('reason, for the journal').fill('too noisy')
    await page.getByRole('button', { name: 'set' }).click()
    await page.getByText('It takes effect at the next step').waitFor()
    expect(await violations(page)).toEqual([])
    await page.getByRole('button', { name: 'leave it' }).click()
    expect(readState(run).changes).toEqual([])
    await page.getByRole('button', { name: 'set' }).click()
    await page.getByRole('dialog').getByRole('button', { name: 'set' }).click()
    await page.getByText(/learningRate is 0.000002 from step \d+ on/).waitFor()
    expect(readState(run).changes).toMatchObject([{ path: 'learningRate', effective: 2e-6 }])

    await server.close()
    await page.getByText('not connected').waitFor()
    const missed = await step()
    server = await served(world, realPage, port)
    await expect.poll(step, { timeout: 30_000 }).toBeGreaterThan(missed)
    await page.getByText('not connected').waitFor({ state: 'detached' })

    await page.getByRole('button', { name: 'stop' }).click()
    await page.getByText('optimiser state').waitFor()
    await page.getByRole('dialog').getByRole('button', { name: 'stop' }).click()
    await followed(run, world)
    await page.getByRole('heading', { name: 'stopped' }).waitFor()
    await page.getByRole('button', { name: 'continue' }).waitFor()
    await page.getByRole('link', { name: 'curves' }).click()
    await page.getByText('learningRate = 0.000002 applied').waitFor()
    expect(wrong).toEqual([])
    await page.close()
    await server.close()
  })

  test('a report is the same page in one file, without any network', async ({ folder }) => {
    const world = fakeWorld(folder)
    const run = madeRun(world, {
      steps: 3000,
      reason: 'completed',
      backAt: 2000,
      backTo: 1900,
      more: (made) => withSamples(made, sampleVideo, [3000], ['a </script><b>prompt</b>']),
    })
    const file = join(folder, 'report.html')
    writeFileSync(file, await reportOf(run.id, world, realPage))
    expect(readFileSync(file, 'utf8')).not.toContain(folder)
    const { page, wrong } = await openPage(browser, `file://${file}`)
    const chart = chartOf(page, 'Training loss')
    await chart.getByText('3,000 of 3,000 points').waitFor()
    await page.getByRole('button', { name: 'Zoom in' }).click()
    await chart.getByText('1,500 of 3,000 points').waitFor()
    await page.getByLabel('over').selectOption('relative')
    await chart.getByText('3,000 of 3,000 points').waitFor()
    expect(await page.getByRole('link', { name: 'control' }).count()).toBe(0)
    await page.getByRole('link', { name: 'samples' }).click()
    await page.getByText('a </script><b>prompt</b>').waitFor()
    await expect.poll(() => page.evaluate("document.querySelector('video').readyState"), { timeout: 20_000 }).toBeGreaterThan(1)
    await page.getByRole('link', { name: 'stage', exact: true }).click()
    await page.getByText(/settings? differs?/).waitFor()
    expect(await violations(page)).toEqual([])
    expect(wrong).toEqual([])
    await page.close()
  })

  test('says what is wrong where the token is missing', async ({ folder }) => {
    const server = await served(fakeWorld(folder), realPage)
    const { page } = await openPage(browser, `http://127.0.0.1:${server.port}/`)
    await page.getByRole('alert').getByText('expected a token of this server').waitFor()
    expect(await violations(page)).toEqual([])
    await page.close()
    await server.close()
  })

  test('is small, and needs nothing from elsewhere', async () => {
    const { gzipSync } = await import('node:zlib')
    const { script, style } = await realPage()
    expect(gzipSync(script).length + gzipSync(style).length).toBeLessThan(100_000)
  })
})

/** Whether a curve is drawn in the upper part of the loss chart at a share of its width. Lines of the grid are grey; a curve is not. */
function inkNear(page: Page, share: number): Promise<boolean> {
  return page.evaluate(`(() => {
    const figure = document.querySelector('figure[data-chart="Training loss"]')
    const canvas = figure.querySelector('canvas')
    const [outer, inner] = [canvas, figure.querySelector('.u-over')].map((element) => element.getBoundingClientRect())
    const scale = canvas.width / outer.width
    const x = Math.round((inner.left - outer.left + inner.width * ${share}) * scale) - 2
    const y = Math.round((inner.top - outer.top + inner.height * 0.25) * scale)
    const { data } = canvas.getContext('2d').getImageData(x, y, 5, Math.round(inner.height * 0.3 * scale))
    for (let at = 0; at < data.length; at += 4) if (data[at + 3] > 40 && data[at + 2] - data[at] > 40) return true
    return false
  })()`)
}
